"""What the tool registry and jobs with tools ask of the world outside. The rules of `sidecar.ports.bus` hold."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of one tool over the bus. `timeout_s` bounds each wait: for the answer, or after a heartbeat.

    However many heartbeats come, the call ends at `deadline` (seconds since 1970), or without one after an hour.
    `on_progress` is called with the payload of each heartbeat that has one.
    """

    subject: str
    payload: bytes
    headers: dict[str, str]
    timeout_s: float
    deadline: float | None = None
    on_progress: Callable[[bytes], None] | None = None


class ToolBus(Protocol):
    async def call(self, call: ToolCall) -> bytes:
        """The provider's output. Raises Permanent (`tool_failed`) for an error reply (its number and text in
        `details`) and for one too large, Temporary when nobody listens or none answered in time.

        `details["outcome"]` of a Temporary is `none` where no provider can have run, else `unknown`. A provider
        whose call timed out or was cancelled here is told so.
        """
        ...

    async def services(self, *, wait_s: float) -> Sequence[bytes]:
        """What the micro services on the bus say of themselves (ADR-32 INFO, JSON), gathered for `wait_s`.

        Bounded in number and size; not to be trusted.
        """
        ...


class ToolKey(NamedTuple):
    scope: str
    name: str
    version: str


class StoredTool(NamedTuple):
    """One published version. `document` is its registration without the ttl, as JSON, and never changes.

    `expires` (seconds since 1970) is when the registration ends unless it is renewed. `revision` grows with each
    write to the bucket.
    """

    key: ToolKey
    document: bytes
    expires: float
    revision: int


class ToolChange(NamedTuple):
    """A write to the bucket: `stored` is None for a version forgotten, `key` None for what names no tool.

    `is_foreign`: no replica wrote this, and nothing is known of the version but that it was written over.
    """

    revision: int
    key: ToolKey | None
    stored: StoredTool | None
    is_foreign: bool = False


class ToolSnapshot(NamedTuple):
    """All that was stored when the bucket's last write was `revision`; newer writes may be among it. `foreign` is
    what no replica wrote.
    """

    tools: Sequence[StoredTool]
    revision: int
    foreign: Sequence[ToolChange] = ()


class ToolStore(Protocol):
    """Published versions of tools: KV bucket `LLM_TOOL`, key `<scope>.<name>.<version, dots as _>`."""

    async def put(self, key: ToolKey, document: bytes, *, expires: float, revision: int, keep_s: int) -> int:
        """Write over exactly `revision` (0: a new version), or what a stranger wrote over it; forgotten by itself
        after `keep_s`.

        Returns the new revision. Raises Conflict when another replica wrote.
        """
        ...

    async def get(self, key: ToolKey) -> StoredTool | None:
        """Reads what was just written, also at R3."""
        ...

    async def delete(self, key: ToolKey, *, revision: int) -> None:
        """Forget a version. Raises Conflict when somebody else wrote."""
        ...

    async def discard(self, revision: int) -> None:
        """Take away what was written at this revision. No error when it is gone."""
        ...

    async def snapshot(self) -> ToolSnapshot: ...

    async def last_revision(self) -> int:
        """The revision of the last write to the bucket."""
        ...

    async def listen(self, on_change: Callable[[ToolChange], None]) -> None:
        """Call `on_change` for each write from now on, in order. A hint: one may be lost, revisions tell."""
        ...
