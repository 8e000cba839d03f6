"""Filters on JSON values: what a text filter would remove must not stand in the value made of the text. Pure.

One walk comes by each text, number and member's name of a value; what is done at each is a `Leaf`'s matter.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from sidecar.response_formatter.filters.sanitise import is_clean, sanitised
from sidecar.response_formatter.filters.scanner import BlockMatch
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, OutgoingText

_MOST_NAME_CHARS = 160
_LONGEST_STEP = 64
_LONGEST_PATH = 300
BLOCKED = "[BLOCKED]"


class Leaf(Protocol):
    """What is done at a text of a value."""

    def shown(self, text: str, *, name: str, path: str) -> str:
        """What stands in the place of a text. `name` is what stands before it; a number comes as its digits."""
        ...


def walked(value: Any, leaf: Leaf, *, name: str = "", path: str = "") -> Any:
    """The value with each text in it, each number and each member's name, as `leaf` shows it.

    A member's name counts as what stands before its value. A number that is shown otherwise becomes a text.
    """
    if isinstance(value, str):
        return leaf.shown(value, name=name, path=path)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        said = str(value)
        shown = leaf.shown(said, name=name, path=path)
        return value if shown == said else shown
    if isinstance(value, dict):
        return _members(value, leaf, path)
    if isinstance(value, list | tuple):
        return [walked(item, leaf, name=name, path=below(path, f"[{at}]")) for at, item in enumerate(value)]
    return value


def _members(value: Mapping[Any, Any], leaf: Leaf, path: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, item in value.items():
        where = below(path, f".{key[:_LONGEST_STEP]}")
        shown = key if not key else leaf.shown(key, name="", path=where)
        if shown in seen and shown != key:
            # Two members must not become one.
            shown = f"{shown} {len(seen)}"
        seen[shown] = walked(item, leaf, name=key, path=where)
    return seen


def below(path: str, step: str) -> str:
    """A path is made for each text: one that grew with the names in it would cost more than the texts."""
    return path + step if len(path) < _LONGEST_PATH else path


class ValueScreen:
    """Shows what a chain's rules let be seen. `blocked` is the first block, and where it was; `counts` gathers."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.counts = FilterCounts()
        self.blocked: BlockMatch | None = None
        self.blocked_at = ""

    def shown(self, text: str, *, name: str, path: str) -> str:
        if not name:
            return self._through(text, path, self.counts)
        # No filter looks further back, and one name may stand before very many values.
        before = f"{name[-_MOST_NAME_CHARS:]}: "
        counts = FilterCounts()
        whole = self._through(before + text, path, counts)
        if whole.startswith(before) or whole == BLOCKED:
            self._add(counts)
            return whole.removeprefix(before)
        # Where the name itself was touched, the value is judged alone.
        return self._through(text, path, self.counts)

    def value(self, value: Any, *, path: str = "") -> Any:
        return value if value is None else walked(value, self, path=path)

    def _add(self, counts: FilterCounts) -> None:
        for name, action, kinds in counts.found_so_far():
            self.counts.add(name, action, kinds)
        for kind, count in counts.hidden.items():
            self.counts.hidden[kind] = self.counts.hidden.get(kind, 0) + count

    def _through(self, text: str, path: str, counts: FilterCounts) -> str:
        if not self._chain.rules:
            return text if is_clean(text) else sanitised(text, self._chain.sanitise, counts.hidden)
        channel = OutgoingText(self._chain, counts)
        parts = [*channel.feed(0, text), *channel.end()]
        if channel.blocked is None:
            return "".join([piece for _, piece in parts])
        if self.blocked is None:
            self.blocked, self.blocked_at = channel.blocked, path
        return BLOCKED


class Gathered:
    """Takes down each text, and shows it as it is."""

    def __init__(self) -> None:
        self.texts: dict[str, None] = {}

    def shown(self, text: str, *, name: str, path: str) -> str:
        if text.strip():
            self.texts[text] = None
        return text

    def value(self, value: Any, *, path: str = "") -> Any:
        return value if value is None else walked(value, self, path=path)


class Told:
    """Shows texts as somebody has told to show them."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self._told = told

    def shown(self, text: str, *, name: str, path: str) -> str:
        return self._told.get(text, text)

    def value(self, value: Any, *, path: str = "") -> Any:
        return value if value is None else walked(value, self, path=path)


class Kept:
    """Shows everything."""

    def value(self, value: Any, *, path: str = "") -> Any:
        return value


class ValueLook(Protocol):
    """`ValueScreen`, `Gathered`, `Told` or `Kept`."""

    def value(self, value: Any, *, path: str = "") -> Any: ...


class Findings(msgspec.Struct, array_like=True):
    """What was found in texts or values, as a worker process tells it."""

    found: list[tuple[str, str, dict[str, int]]] = []
    hidden: dict[str, int] = {}
    blocked: BlockMatch | None = None
    blocked_at: str = ""

    def count(self, counts: FilterCounts) -> None:
        """Add what was found to `counts`."""
        for name, action, kinds in self.found:
            counts.add(name, action, kinds)
        for kind, count in self.hidden.items():
            counts.hidden[kind] = counts.hidden.get(kind, 0) + count


def findings_of(screen: ValueScreen) -> Findings:
    counts = screen.counts
    # Half surrogate pairs become U+FFFD on the way to a worker process already, and on the way to any client.
    hidden = {kind: count for kind, count in counts.hidden.items() if kind != "surrogate"}
    return Findings(counts.found_so_far(), hidden, screen.blocked, screen.blocked_at)


class ScreenedValues(msgspec.Struct, array_like=True):
    values: list[Any]
    findings: Findings
