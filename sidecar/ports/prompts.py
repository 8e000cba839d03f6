"""Prompt templates as the world outside keeps them. The rules of `sidecar.ports.bus` hold."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class StoredPrompt(NamedTuple):
    """A document of the bucket `LLM_PROMPT`, at its last revision."""

    key: str
    revision: int
    document: bytes


class StoredPrompts(NamedTuple):
    """`overrun` are keys at which nothing is left but what strangers wrote, whatever was there before."""

    prompts: Sequence[StoredPrompt]
    overrun: Sequence[str] = ()


class PromptStore(Protocol):
    """Prompt templates: the KV bucket `LLM_PROMPT`, keys `<scope>.<name>.<version, dots as _>`."""

    async def mark(self) -> int:
        """A number that changes whenever the bucket does."""
        ...

    async def load(self) -> StoredPrompts:
        """Every document that stands. What strangers wrote is left out and taken away."""
        ...

    async def get(self, key: str, *, revision: int) -> bytes | None:
        """A document as it was at a revision, also when it was written over since; None when that is gone."""
        ...

    async def create(self, key: str, document: bytes) -> int:
        """Store a new document. Returns its revision. Raises Conflict when the key has one."""
        ...

    async def delete(self, key: str) -> None: ...

    async def listen(self, on_change: Callable[[str, bytes | None], None]) -> None:
        """Call `on_change(key, document)` for each change from now on (None: taken away). A hint: it may be lost,
        and what it tells may not have been stored.
        """
        ...
