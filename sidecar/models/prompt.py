"""Prompt templates: stored by name and version, filled in with a request's variables. Plain substitution."""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec

from sidecar.models.base import FieldError, Name, Open, Strict, matching
from sidecar.models.content import Message, TextBlock
from sidecar.models.rules import check_messages
from sidecar.models.subjects import is_name

SHARED = "shared"
_MOST_NAMED = 50
LARGEST_RENDERED = 4_000_000
"""Characters of all texts of a filled-in template together."""

_PLACEHOLDER = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]*\}\}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,2}")

Value = str | int | float | bool
VariableName = Annotated[str, matching(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$", "a variable's name, such as city")]


class Variable(Strict, frozen=True, kw_only=True):
    """One variable of a template. `default` stands in where a request gives none; `max_length` in characters."""

    type: Literal["string", "integer", "number", "boolean"] = "string"
    required: bool = True
    default: Value | None = None
    max_length: Annotated[int, msgspec.Meta(ge=0)] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if self.default is not None and (problem := self.problem(self.default)) is not None:
            raise FieldError(problem, path="default")
        if self.max_length is not None and self.type != "string":
            raise FieldError("is for variables of type 'string'", path="max_length")

    def problem(self, value: Value) -> str | None:
        """Why a value does not fit; None for one that does."""
        if type(value) not in _TYPES[self.type]:
            return f"must be of type {self.type!r}"
        if self.max_length is not None and len(str(value)) > self.max_length:
            return f"has {len(str(value))} characters, at most {self.max_length} are allowed"
        return None


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class PromptTemplate(Strict, frozen=True, kw_only=True):
    """Messages, and a system prompt, whose texts hold `{{name}}` for each variable.

    Only texts are filled in: `system`, string contents and text blocks. What a variable's value says is never read
    as a template again.
    """

    messages: Annotated[tuple[Message, ...], msgspec.Meta(min_length=1)]
    system: str | None = None
    variables: dict[VariableName, Variable] = {}
    description: str = ""

    def __post_init__(self) -> None:
        check_messages(self.messages)
        for path, text in self._texts():
            for name in _PLACEHOLDER.findall(text):
                if name not in self.variables:
                    raise FieldError(f"{{{{{name}}}}} is not one of 'variables': declare it there", path=path)

    def _texts(self) -> Iterator[tuple[str, str]]:
        if self.system is not None:
            yield "system", self.system
        for i, message in enumerate(self.messages):
            if isinstance(message.content, str):
                yield f"messages[{i}].content", message.content
                continue
            for j, block in enumerate(message.content):
                if isinstance(block, TextBlock):
                    yield f"messages[{i}].content[{j}].text", block.text

    def values(self, given: Mapping[str, Value]) -> dict[str, str]:
        """The text of every variable. Raises FieldError with the variable's path below the request's `prompt`."""
        for name in given:
            if name not in self.variables:
                known = ", ".join(islice(self.variables, _MOST_NAMED)) or "none"
                raise FieldError(f"is no variable of this template; it has: {known}", path=f"variables.{name}")
        texts: dict[str, str] = {}
        for name, variable in self.variables.items():
            value = given.get(name, variable.default)
            if value is None and variable.required:
                raise FieldError("is missing: this template needs it", path=f"variables.{name}")
            if name in given and (problem := variable.problem(given[name])) is not None:
                raise FieldError(problem, path=f"variables.{name}")
            texts[name] = "" if value is None else _text(value)
        return texts

    def size(self, texts: Mapping[str, str]) -> int:
        """How many characters the texts have together, once they are filled in."""
        return sum(_size(text, texts) for _, text in self._texts())

    def rendered(self, texts: Mapping[str, str]) -> tuple[str | None, tuple[Message, ...]]:
        """System prompt and messages with every variable's text in its place. Raises FieldError where it would be
        too long.
        """
        size = self.size(texts)
        if size > LARGEST_RENDERED:
            raise FieldError(
                f"make the prompt {size} characters long, at most {LARGEST_RENDERED} are allowed", path="variables"
            )
        system = None if self.system is None else _filled(self.system, texts)
        return system, tuple(_message(message, texts) for message in self.messages)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _size(text: str, texts: Mapping[str, str]) -> int:
    return len(text) + sum(len(texts[name]) for name in _PLACEHOLDER.findall(text))


def _filled(text: str, texts: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: texts[found[1]], text)


def _message(message: Message, texts: Mapping[str, str]) -> Message:
    if isinstance(message.content, str):
        return msgspec.structs.replace(message, content=_filled(message.content, texts))
    content = tuple(
        TextBlock(text=_filled(block.text, texts)) if isinstance(block, TextBlock) else block
        for block in message.content
    )
    return msgspec.structs.replace(message, content=content)


class PromptUse(Open, frozen=True, kw_only=True):
    """Which template a job was made of. `revision` is the document's in the bucket; `sha256` is of the filled-in
    texts in UTF-8, the system prompt first, one line break between two.
    """

    name: Name
    version: str
    scope: str
    sha256: str
    revision: int = 0


def text_digest(system: str | None, messages: Iterable[Message]) -> str:
    """The hash by which a filled-in template is known."""
    texts = [] if system is None else [system]
    for message in messages:
        if isinstance(message.content, str):
            texts.append(message.content)
        else:
            texts.extend(block.text for block in message.content if isinstance(block, TextBlock))
    return sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def is_version(text: str) -> bool:
    """Versions are one to three numbers with dots between them: `3`, `1.2.0`."""
    return _VERSION.fullmatch(text) is not None


def version_order(version: str) -> tuple[int, ...]:
    """What versions are compared by: `1.10` is above `1.9`, and `2` is `2.0.0`."""
    numbers = [int(number) for number in version.split(".")]
    return (*numbers, *[0] * (3 - len(numbers)))


def key_of(scope: str, name: str, version: str) -> str:
    """The key in the bucket `LLM_PROMPT`. Raises FieldError for what cannot be one."""
    for path, token in (("scope", scope), ("name", name)):
        if not is_name(token):
            raise FieldError(f"{token[:80]!r}: use 1 to 64 of A-Z a-z 0-9 _ -", path=path)
    if not is_version(version):
        raise FieldError(f"{version[:80]!r}: use one to three numbers, such as 3 or 1.2.0", path="version")
    return f"{scope}.{name}.{version.replace('.', '_')}"


def parts_of(key: str) -> tuple[str, str, str] | None:
    """Scope, name and version of a key; None for a key that is no template's."""
    scope, _, rest = key.partition(".")
    name, _, version = rest.partition(".")
    if "." in version or not (is_name(scope) and is_name(name)):
        return None
    version = version.replace("_", ".")
    return (scope, name, version) if is_version(version) else None


def describe(template: PromptTemplate) -> dict[str, Any]:
    """What a list shows of a template's variables: `{name: type}`, with `?` where it may be left out."""
    return {
        name: variable.type + ("" if variable.required and variable.default is None else "?")
        for name, variable in template.variables.items()
    }
