"""Hypothesis strategies for every message, made from the types themselves."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from sidecar.models.content import (
    CachePointBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    ReasoningBlock,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.event import DATA_OF, Event
from sidecar.models.objects import ObjectPut
from sidecar.models.request import InlineTool, JobRequest, Reasoning

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
_NOT_BLANK = TEXT.filter(lambda text: bool(text.strip()))


def messages_of(kind: Any) -> st.SearchStrategy[Any]:
    """Messages of type `kind`, each within the rules of its fields and of the protocol."""
    made = _SPECIAL.get(kind)
    return made() if made is not None else _of(inspect.type_info(kind))


def _of(node: inspect.Type) -> st.SearchStrategy[Any]:
    if isinstance(node, inspect.Metadata):
        return _of(node.type)
    if isinstance(node, inspect.UnionType):
        return st.one_of([_of(member) for member in node.types])
    if isinstance(node, inspect.StructType):
        made = _SPECIAL.get(node.cls)
        return made() if made is not None else _struct(node.cls)
    return _PLAIN[type(node)](node)


def _struct(cls: type[msgspec.Struct], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    fields = {field.name: field for field in info.fields}
    required = {
        name: given[name] if name in given else _of(f.type)
        for name, f in fields.items()
        if f.required or name in given
    }
    optional = {name: _of(f.type) for name, f in fields.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: cls(**values))


def _string(node: inspect.StrType) -> st.SearchStrategy[str]:
    low, high = node.min_length or 0, node.max_length
    if node.pattern is not None:
        texts = st.from_regex(node.pattern)
        return texts.filter(lambda t: low <= len(t) <= (high or len(t)) and "\x00" not in t)
    return st.text(st.characters(codec="utf-8"), min_size=low, max_size=min(high or 20, low + 20))


def _integer(node: inspect.IntType) -> st.SearchStrategy[int]:
    low = -(2**63) if node.ge is None else int(node.ge)
    return st.integers(low, 2**63 if node.le is None else int(node.le))


def _number(node: inspect.FloatType) -> st.SearchStrategy[float]:
    low = node.ge if node.ge is not None else node.gt
    return st.floats(
        min_value=low,
        max_value=node.le,
        exclude_min=node.gt is not None,
        allow_nan=False,
        allow_infinity=False,
        allow_subnormal=False,
    )


_PLAIN: dict[type[inspect.Type], Any] = {
    inspect.StrType: _string,
    inspect.IntType: _integer,
    inspect.FloatType: _number,
    inspect.AnyType: lambda _: JSON,
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.BytesType: lambda _: st.binary(min_size=1, max_size=8),
    inspect.LiteralType: lambda node: st.sampled_from(node.values),
    inspect.DateTimeType: lambda _: st.integers(0, 4_000_000_000).map(lambda s: datetime.fromtimestamp(s, UTC)),
    inspect.DictType: lambda node: st.dictionaries(_of(node.key_type), _of(node.value_type), max_size=3),
    inspect.VarTupleType: lambda node: st.lists(
        _of(node.item_type), min_size=node.min_length or 0, max_size=(node.min_length or 0) + 2
    ).map(tuple),
}


def _requests() -> st.SearchStrategy[JobRequest]:
    user = st.builds(Message, role=st.just("user"), content=_NOT_BLANK | _user_blocks())
    turns = st.one_of(st.builds(lambda m: (m,), user), _with_tool_call(user))
    tools = st.lists(_of(inspect.type_info(InlineTool)), max_size=2, unique_by=lambda tool: tool.name)
    refs = st.lists(st.sampled_from(["search", "orders@^1.2", "llm.job"]), max_size=3, unique=True)
    return _struct(
        JobRequest,
        messages=turns,
        prompt=st.none(),
        tools=(tools | refs).map(tuple),
        tool_choice=st.sampled_from(["auto", "none"]),
    )


def _user_blocks() -> st.SearchStrategy[Any]:
    kinds = (TextBlock, ImageBlock, DocumentBlock, CachePointBlock)
    blocks = st.one_of([_of(inspect.type_info(kind)) for kind in kinds])
    return st.lists(blocks, max_size=3).map(lambda found: (TextBlock(text="begin"), *found))


def _with_tool_call(user: st.SearchStrategy[Message]) -> st.SearchStrategy[tuple[Message, ...]]:
    def turn(first: Message, call: ToolUseBlock, answer: ToolResultBlock) -> tuple[Message, ...]:
        answer = msgspec.structs.replace(answer, tool_use_id=call.id)
        return first, Message(role="assistant", content=(call,)), Message(role="user", content=(answer,))

    calls, answers = _of(inspect.type_info(ToolUseBlock)), _of(inspect.type_info(ToolResultBlock))
    return st.builds(turn, user, calls, answers)


def _events() -> st.SearchStrategy[Event]:
    def of_type(name: str, kind: Any) -> st.SearchStrategy[Event]:
        numbers = st.integers(0, 2**31)
        metadata = st.dictionaries(TEXT, JSON, max_size=2)
        return st.builds(
            Event,
            job=TEXT,
            tenant=TEXT,
            type=st.just(name),
            attempt=numbers,
            n=numbers,
            time=TEXT,
            metadata=metadata,
            data=messages_of(kind),
        )

    return st.one_of([of_type(name, kind) for name, kind in DATA_OF.items()])


def _exactly_one(cls: type[msgspec.Struct], first: str, second: str) -> st.SearchStrategy[Any]:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    types = {field.name: field.type for field in info.fields}

    def only(name: str) -> st.SearchStrategy[Any]:
        return _of(types[name]).filter(lambda value: value is not None).map(lambda value: cls(**{name: value}))

    return only(first) | only(second)


def _object_puts() -> st.SearchStrategy[ObjectPut]:
    piece = _struct(ObjectPut, data=st.binary(max_size=8), parts=st.none(), size=st.none(), sha256=st.none())
    digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
    counts = st.integers(0, 1000)
    return piece | _struct(ObjectPut, data=st.none(), parts=counts, size=counts, sha256=digests)


_SPECIAL: dict[Any, Any] = {
    ObjectPut: _object_puts,
    JobRequest: _requests,
    Event: _events,
    Source: lambda: _exactly_one(Source, "data", "object"),
    Reasoning: lambda: _exactly_one(Reasoning, "effort", "budget_tokens"),
    ReasoningBlock: lambda: _exactly_one(ReasoningBlock, "text", "redacted"),
    InlineTool: lambda: _struct(InlineTool, input_schema=st.just({"type": "object"})),
}
