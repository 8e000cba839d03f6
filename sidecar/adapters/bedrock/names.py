"""Names as Bedrock takes them: tool names, tool-use ids, document names. Deterministic, so that caches hold."""

import hashlib
import re
from collections.abc import Iterable

MAX_NAME_CHARS = 64
MAX_DOCUMENT_CHARS = 200

_NOT_TOOL = re.compile(r"[^A-Za-z0-9_-]")
_NOT_ID = re.compile(r"[^A-Za-z0-9_.:-]")
_NOT_DOCUMENT = re.compile(r"[^A-Za-z0-9 \-()\[\]]+")
_SPACES = re.compile(r" {2,}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def plain(text: str, unwanted: re.Pattern[str]) -> str:
    """`text` without what `unwanted` finds and of at most 64 characters; a hash tells what was changed apart."""
    clean = unwanted.sub("_", text)
    if clean == text and len(text) <= MAX_NAME_CHARS:
        return text
    return f"{clean[: MAX_NAME_CHARS - 9]}_{_digest(text)}"


class ToolNames:
    """Maps a call's tool names to the wire and back. A name that needs no change keeps it."""

    def __init__(self, names: Iterable[str], *, allows_hyphens: bool) -> None:
        self._allows_hyphens = allows_hyphens
        self._wire: dict[str, str] = {}
        self._back: dict[str, str] = {}
        # Plain names first, so that no mapped one takes theirs.
        for name in sorted(set(names), key=lambda name: (self._clean(name) != name, name)):
            self._add(name)

    def to_wire(self, name: str) -> str:
        return self._wire.get(name) or self._add(name)

    @property
    def back(self) -> dict[str, str]:
        """Names of the call by the names on the wire, where the two differ."""
        return {wire: name for wire, name in self._back.items() if wire != name}

    def free(self, wanted: str) -> str:
        """A name on the wire that no tool has, `wanted` if possible."""
        name, number = wanted, 2
        while name in self._back:
            name, number = f"{wanted}_{number}", number + 1
        self._back[name] = name
        return name

    def _clean(self, name: str) -> str:
        clean = _NOT_TOOL.sub("_", name)
        return clean if self._allows_hyphens else clean.replace("-", "_")

    def _add(self, name: str) -> str:
        wire = self._clean(name)
        if len(wire) > MAX_NAME_CHARS or wire in self._back:
            wire = f"{wire[: MAX_NAME_CHARS - 9]}_{_digest(name)}"
        self._wire[name] = wire
        self._back[wire] = name
        return wire


def tool_use_id(text: str, *, is_narrow: bool = False) -> str:
    """A tool-use id of any origin as Bedrock takes it; `is_narrow` also leaves out dots and colons."""
    return plain(text, _NOT_TOOL if is_narrow else _NOT_ID)


class DocumentNames:
    """Plain names, each used once in a request."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def take(self, wanted: str) -> str:
        clean = _SPACES.sub(" ", _NOT_DOCUMENT.sub(" ", wanted)).strip()[: MAX_DOCUMENT_CHARS - 6].strip()
        base = clean or "document"
        name, number = base, 2
        while name in self._used:
            name, number = f"{base} {number}", number + 1
        self._used.add(name)
        return name
