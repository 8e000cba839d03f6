"""What a tool's function may know of the call that it answers."""

import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sidecar.client.tools.errors import ToolCancelled
from sidecar.models.base import epoch
from sidecar.models.subjects import (
    HEADER_DEADLINE,
    HEADER_IDEMPOTENCY_KEY,
    HEADER_JOB_ID,
    HEADER_TENANT,
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
    when nobody waits any longer. `traceparent` continues the caller's trace. A plain `ToolContext()` serves
    in tests of the function.
    """

    job_id: str | None = None
    tenant: str | None = None
    tool_use_id: str | None = None
    idempotency_key: str | None = None
    deadline: datetime | None = None
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
        """Seconds until the deadline by this machine's clock, never negative; None where there is none."""
        if self.deadline is None:
            return None
        return max(self.deadline.timestamp() - clock(), 0.0)


def enter(context: ToolContext) -> None:
    """Make `context` the current one, in this task or copied context."""
    _current.set(context)


def context_of(headers: Mapping[str, str]) -> ToolContext:
    """The context that a call's headers tell. A deadline that is no time counts as none."""
    return ToolContext(
        job_id=headers.get(HEADER_JOB_ID),
        tenant=headers.get(HEADER_TENANT),
        tool_use_id=headers.get(HEADER_TOOL_USE_ID),
        idempotency_key=headers.get(HEADER_IDEMPOTENCY_KEY),
        deadline=_deadline(headers.get(HEADER_DEADLINE)),
        traceparent=headers.get("traceparent"),
        tracestate=headers.get("tracestate"),
        headers=dict(headers),
    )


def _deadline(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(epoch(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
