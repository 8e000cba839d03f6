"""Schemas of tools out of Python functions, and what cannot be a tool."""

import dataclasses
import datetime
import decimal
import enum
import json
import typing
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict

import annotated_types
import jsonschema
import jsonschema_rs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import ToolContext, tool
from sidecar.client import InvalidTool, Tool
from sidecar.errors import InvalidRequest
from sidecar.models.tool import ToolRegistration

UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    """Where something is."""

    x: int
    y: Annotated[int, msgspec.Meta(ge=0, description="up")] = 0


class Tree(msgspec.Struct):
    value: int
    children: list["Tree"] = []


@dataclasses.dataclass
class Order:
    number: str
    lines: list[Point]


class Pair(TypedDict):
    left: int
    right: typing.NotRequired[str]


class Span(NamedTuple):
    start: int
    end: int


class Circle(msgspec.Struct, tag_field="kind", tag="circle"):
    radius: float


class Square(msgspec.Struct, tag_field="kind", tag="square"):
    side: float


class Item(pydantic.BaseModel):
    title: str = pydantic.Field(min_length=2, description="what it is called")
    price: decimal.Decimal | None = None
    parts: list["Item"] = []


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    title: int = pydantic.Field(alias="theTitle")


def schema_of(kind: Any, **options: Any) -> dict[str, Any]:
    """The schema of a parameter of type `kind`, its definitions aside."""
    return tool_of(kind, **options).registration.input_schema


def tool_of(kind: Any, **options: Any) -> Tool[..., Any]:
    def probe(value):  # type: ignore[no-untyped-def]
        """Probe."""
        return value

    probe.__annotations__ = {"value": kind, "return": Any}
    return tool(**options)(probe)


def property_of(kind: Any) -> Any:
    return schema_of(kind)["properties"]["value"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (bytes, {"type": "string", "contentEncoding": "base64"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Mapping[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (Literal["a", "b"], {"enum": ["a", "b"]}),
        (Color, {"$ref": "#/$defs/Color"}),
        (UserId, {"type": "integer"}),
        (Annotated[datetime.datetime, msgspec.Meta(tz=True)], {"type": "string", "format": "date-time"}),
        (datetime.date, {"type": "string", "format": "date"}),
        (uuid.UUID, {"type": "string", "format": "uuid"}),
        (Point, {"$ref": "#/$defs/Point"}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Annotated[int, msgspec.Meta(ge=1, le=5)], {"type": "integer", "minimum": 1, "maximum": 5}),
        (Annotated[str, "words"], {"type": "string", "description": "words"}),
        (Annotated[int, annotated_types.Gt(2)], {"type": "integer", "exclusiveMinimum": 2}),
        (Annotated[str, pydantic.Field(max_length=3)], {"type": "string", "maxLength": 3}),
        (Item, {"$ref": "#/$defs/Item"}),
        (list[Item] | None, {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Item"}}, {"type": "null"}]}),
    ],
)
def test_types_have_their_schemas(kind: Any, expected: dict[str, Any]) -> None:
    assert property_of(kind) == expected


ALL_TYPES = [
    str,
    int,
    float,
    bool,
    None,
    list[int],
    dict[str, float],
    tuple[int, str],
    tuple[int, ...],
    set[int],
    Literal["a", 1],
    Color,
    int | str | None,
    list[dict[str, list[int | None]]],
    Point,
    Tree,
    Order,
    Pair,
    Span,
    Circle | Square,
    Annotated[int, msgspec.Meta(ge=1, le=5)],
    Annotated[list[str], msgspec.Meta(max_length=2)],
    Item,
    Strict,
    dict[str, Item],
]


@pytest.mark.parametrize("kind", ALL_TYPES, ids=str)
def test_every_schema_is_one(kind: Any) -> None:
    schema = schema_of(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema_rs.validator_for(schema)
    text = json.dumps(schema)
    assert '"title": "' not in text
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 7)
    | st.floats(-3, 7, allow_nan=False)
    | st.sampled_from(["a", "b", "red", "circle", "xy"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["x", "y", "value", "children", "kind", "radius", "left", "title", "number"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
TOOLS = [tool_of(kind) for kind in ALL_TYPES]
VALIDATORS = [jsonschema_rs.validator_for(one.registration.input_schema) for one in TOOLS]


@given(index=st.integers(0, len(TOOLS) - 1), value=JSON)
def test_what_the_schema_takes_the_function_gets(index: int, value: Any) -> None:
    payload = {"value": value}
    if VALIDATORS[index].is_valid(payload):
        given_value = TOOLS[index].signature.input.decode(json.dumps(payload).encode())
        assert set(given_value) == {"value"}


@given(payload=st.binary(max_size=60) | st.builds(lambda v: json.dumps(v).encode(), JSON))
def test_any_payload_is_taken_or_refused_in_words(payload: bytes) -> None:
    messages: list[str] = []
    for one in TOOLS[:3] + TOOLS[-2:]:
        try:
            one.signature.input.decode(payload)
        except InvalidRequest as e:
            messages.append(e.message)
    assert all(messages)


def test_a_whole_signature() -> None:
    @tool(version="2.1.0", name="search-hits", timeout_s=5, idempotent=True, ttl_s=60, concurrency=3)
    async def search(
        ctx: ToolContext,
        query: str,
        near: Point | None = None,
        *,
        items: list[Item] = [],  # noqa: B006
        limit: Annotated[int, msgspec.Meta(ge=1, description="given by hand")] = 10,
    ) -> list[Point]:
        """Search.

        Args:
            query: Words.
            limit: Not shown, since the annotation says it.
            near: Where.
        """
        return []

    assert search.registration == ToolRegistration(
        name="search-hits",
        version="2.1.0",
        description="Search.",
        input_schema={
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "Words."},
                "near": {
                    "anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}],
                    "description": "Where.",
                    "default": None,
                },
                "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "default": []},
                "limit": {"type": "integer", "minimum": 1, "description": "given by hand", "default": 10},
            },
            "additionalProperties": False,
            "required": ["query"],
            "$defs": search.registration.input_schema["$defs"],
        },
        output_schema={
            "type": "array",
            "items": {"$ref": "#/$defs/Point"},
            "$defs": {
                "Point": {
                    "type": "object",
                    "description": "Where something is.",
                    "properties": {
                        "x": {"type": "integer"},
                        "y": {"type": "integer", "minimum": 0, "description": "up", "default": 0},
                    },
                    "required": ["x"],
                }
            },
        },
        timeout_s=5,
        idempotent=True,
        ttl_s=60,
    )
    assert set(search.registration.input_schema["$defs"]) == {"Point", "Item"}
    assert search.concurrency == 3
    assert search.signature.context == "ctx"
    assert search.__name__ == "search"
    decoded = search.signature.input.decode(b'{"query": "q", "items": [{"title": "ab"}], "near": {"x": 1}}')
    assert decoded == {"query": "q", "items": [Item(title="ab")], "near": Point(1)}


async def test_a_tool_is_still_its_function() -> None:
    @tool
    async def double(n: int) -> int:
        """Double."""
        return 2 * n

    assert await double(4) == 8
    assert double.inline().name == "double"
    assert double.inline().input_schema["required"] == ["n"]


def test_a_bound_method_is_a_tool() -> None:
    class Shop:
        def price(self, article: str) -> int:
            """Price."""
            return len(article)

    bought = tool(Shop().price)
    assert bought.name == "price"
    assert list(bought.registration.input_schema["properties"]) == ["article"]
    assert bought("abc") == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Point(1), {"x": 1, "y": 0}),
        ([Item(title="ab")], [{"title": "ab", "price": None, "parts": []}]),
        ({"a": Strict(theTitle=3)}, {"a": {"theTitle": 3}}),
        (Order("1", [Point(2)]), {"number": "1", "lines": [{"x": 2, "y": 0}]}),
        ({1: {2}, "d": datetime.date(2026, 1, 2)}, {"1": [2], "d": "2026-01-02"}),
        (float("nan"), None),
        ("\ud800", "\ufffd"),
    ],
    ids=repr,
)
def test_outputs_become_json(value: Any, expected: Any) -> None:
    assert json.loads(tool_of(int).signature.encode_output(value)) == expected


def test_a_pydantic_output_is_of_its_type() -> None:
    @tool
    def give() -> list[Item]:
        """Give."""
        return []

    assert json.loads(give.signature.encode_output([Item(title="ab", price=decimal.Decimal("1.5"))])) == [
        {"title": "ab", "price": "1.5", "parts": []}
    ]
    with pytest.raises(TypeError):
        give.signature.encode_output([3])


@pytest.mark.parametrize(
    ("payload", "path", "text"),
    [
        (b'{"point": {"x": "1"}, "item": {"title": "ab"}}', "point.x", "integer"),
        (b'{"point": {"x": 1}, "item": {"title": "a"}}', "item.title", "at least 2"),
        (b'{"point": {"x": 1}, "item": {"title": "ab", "parts": [{}]}}', "item.parts[0].title", "required"),
        (b'{"point": {"x": 1}}', "item", "missing"),
        (b'{"point": {"x": 1}, "item": null, "pint": 1}', "pint", "did you mean 'point'"),
        (b"[]", "", "object"),
        (b"\xff", "", "UTF-8"),
    ],
)
def test_input_that_does_not_fit_is_refused_with_its_path(payload: bytes, path: str, text: str) -> None:
    @tool
    def buy(point: Point, item: Item) -> None:
        """Buy."""

    with pytest.raises(InvalidRequest, match=text) as caught:
        buy.signature.input.decode(payload)
    assert caught.value.path == path


def test_an_integer_may_be_written_with_a_fraction_of_zero() -> None:
    decoded = tool_of(list[int] | str).signature.input.decode(b'{"value": [1.0, 2, 3e0]}')
    assert decoded == {"value": [1, 2, 3]}
    assert all(type(one) is int for one in decoded["value"])


def unannotated(a):  # type: ignore[no-untyped-def]
    """Do."""


def many(*a: int) -> None:
    """Do."""


def named(**a: int) -> None:
    """Do."""


def positional(a: int, /) -> None:
    """Do."""


def unknown(a: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Do."""


def complicated(a: complex) -> None:
    """Do."""


def calling(a: Callable[[], int]) -> None:
    """Do."""


def ambiguous(a: Point | Tree) -> None:
    """Do."""


def wrong_default(a: int = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
    """Do."""


def field_default(a: int = pydantic.Field(default=3)) -> None:
    """Do."""


def returning() -> Iterator[int]:
    """Do."""
    return iter(())


def silent(a: int) -> None:
    pass


def yielding() -> Iterator[int]:
    """Do."""
    yield 1


async def streaming() -> AsyncIterator[int]:
    """Do."""
    yield 1


def größe(a: int) -> None:
    """Do."""


def named_oddly(größe: int) -> None:
    """Do."""


class Box:
    def look(self, a: int) -> None:
        """Do."""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (unannotated, "unannotated(): parameter 'a' has no annotation: annotate it"),
        (many, "parameter 'a' is *a, which has no schema: take a list"),
        (named, "parameter 'a' is **a"),
        (positional, "positional-only"),
        (unknown, "names 'Nowhere', which is not defined"),
        (complicated, "parameter 'a' has a type that JSON Schema cannot tell"),
        (calling, "parameter 'a' has a type"),
        (ambiguous, "parameter 'a' has a type"),
        (wrong_default, "the default of 'a' is not of its type"),
        (field_default, "Annotated"),
        (returning, "returning() returns a type"),
        (silent, "write a docstring"),
        (yielding, "return a list"),
        (streaming, "return a list"),
        (größe, "give tool(name="),
        (named_oddly, "rename it"),
        (
            Box.look,
            "Box.look(): parameter 'self' has no annotation: annotate it or, for a method, decorate the bound",
        ),
        (lambda: 1, "<lambda>"),
        (print, "wrap it in `def`"),
        (Point, "wrap it in `def`"),
        (tool_of(int), "a tool already"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_wrong_use_is_refused_with_the_remedy(function: Any, words: str) -> None:
    with pytest.raises(InvalidTool) as caught:
        tool(function)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a.b"}, "a.b"),
        ({"version": "1.0"}, "1.2.0"),
        ({"ttl_s": 1}, "ttl_s"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_waiting": -1}, "max_waiting"),
        ({"max_run_s": 0}, "max_run_s"),
        ({"description": "x" * 5000}, "4096"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTool, match=words):
        tool_of(int, **options)


def test_two_different_types_of_one_name_are_told_apart() -> None:
    first = msgspec.defstruct("Item", [("other", int)])

    def mixed(a, b):  # type: ignore[no-untyped-def]
        """Mix."""

    mixed.__annotations__ = {"a": first, "b": Item}
    with pytest.raises(InvalidTool, match="two different types are called Item"):
        tool(mixed)
