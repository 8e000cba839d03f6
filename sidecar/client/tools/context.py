"""What a tool's function may know of the call that it answers."""

import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite

from sidecar.client.tools.errors import ToolCancelled
from sidecar.models.base import epoch
from sidecar.models.subjects import (
    HEADER_DEADLINE,
    HEADER_IDEMPOTENCY_KEY,
    HEADER_JOB_ID,
    HEADER_TENANT,
    HEADER_TIME_LEFT,
    HEADER_TOOL_USE_ID,
)

_current: ContextVar["ToolContext | None"] = ContextVar("sidecar_tool_context", default=None)


class CancelToken:
    """Whether a call was cancelled. Safe to set, read and wait for in any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        return self._event.wait(timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """One call of a tool. All fields may be absent: any service on the bus may call, not only the sidecar.

    A function gets it by a parameter annotated `ToolContext` (which the model does not see), or by
    `ToolContext.current()`. `idempotency_key` is the same when a call is repeated after a crash. `deadline` is
    when nobody waits any longer, by the NATS server's clock; `clock_ahead_s` is how far this machine's is ahead
    of that, as the caller's header tells. `traceparent` continues the caller's trace. A plain `ToolContext()`
    serves in tests of the function.
    """

    job_id: str | None = None
    tenant: str | None = None
    tool_use_id: str | None = None
    idempotency_key: str | None = None
    deadline: datetime | None = None
    clock_ahead_s: float = 0.0
    traceparent: str | None = None
    tracestate: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    token: CancelToken = field(default_factory=CancelToken, repr=False, compare=False)

    @staticmethod
    def current() -> "ToolContext":
        """The context of the call that is being answered here. Raises LookupError outside of one."""
        context = _current.get()
        if context is None:
            raise LookupError("no tool call is being answered here")
        return context

    @property
    def is_cancelled(self) -> bool:
        """Whether the job gave the call up. An async function's task is cancelled as well."""
        return self.token.is_set

    def raise_if_cancelled(self) -> None:
        """For loops in functions that run in a thread. Raises ToolCancelled."""
        if self.token.is_set:
            raise ToolCancelled

    def wait_cancelled(self, timeout_s: float) -> bool:
        """Sleep in a thread that a cancellation ends early; whether it did. Not for async functions."""
        return self.token.wait(timeout_s)

    def remaining_s(self, clock: Callable[[], float] = time.time) -> float | None:
        """Seconds until the deadline, never negative; None where there is none. `clock` is this machine's."""
        return None if self.deadline is None else max(-self.late_s(clock), 0.0)

    def late_s(self, clock: Callable[[], float] = time.time) -> float:
        """How long ago the deadline was; negative before it, and where there is none."""
        if self.deadline is None:
            return float("-inf")
        return clock() - self.clock_ahead_s - self.deadline.timestamp()


def enter(context: ToolContext) -> None:
    """Make `context` the current one, in this task or copied context."""
    _current.set(context)


def context_of(headers: Mapping[str, str], *, clock: Callable[[], float] = time.time) -> ToolContext:
    """The context that a call's headers tell, as it comes. A deadline that is no time counts as none."""
    deadline = _deadline(headers.get(HEADER_DEADLINE))
    return ToolContext(
        job_id=headers.get(HEADER_JOB_ID),
        tenant=headers.get(HEADER_TENANT),
        tool_use_id=headers.get(HEADER_TOOL_USE_ID),
        idempotency_key=headers.get(HEADER_IDEMPOTENCY_KEY),
        deadline=deadline,
        clock_ahead_s=_ahead_s(deadline, headers.get(HEADER_TIME_LEFT), clock()),
        traceparent=headers.get("traceparent"),
        tracestate=headers.get("tracestate"),
        headers=dict(headers),
    )


def _ahead_s(deadline: datetime | None, time_left: str | None, now: float) -> float:
    """How far `now` is ahead of the caller's clock, who said when the deadline is and how long that was away."""
    if deadline is None or time_left is None:
        return 0.0
    try:
        left_s = float(time_left)
    except ValueError:
        return 0.0
    return now - (deadline.timestamp() - left_s) if isfinite(left_s) else 0.0


def _deadline(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(epoch(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
