"""One call of a registered tool over the bus, and what the model is told of it, however it goes."""

import re
from typing import Any, Literal, NamedTuple

from sidecar.conversation.tool_output import (
    MOST_READ_INLINE,
    Shown,
    clean,
    error_text,
    parse,
    read_large,
    refuse,
    shown,
)
from sidecar.conversation.tool_turn import Check, PlannedCall, error_block, idempotency_key
from sidecar.errors import BusUnavailable, Permanent, SidecarError, Temporary, TooCostly
from sidecar.job_manager.job import OwnedJob
from sidecar.job_manager.journal import StoredResult
from sidecar.models.base import rfc3339
from sidecar.models.codec import encode
from sidecar.models.event import ToolActivity
from sidecar.models.result import Child, ErrorInfo
from sidecar.models.subjects import (
    HEADER_DEADLINE,
    HEADER_IDEMPOTENCY_KEY,
    HEADER_JOB_ID,
    HEADER_TENANT,
    HEADER_TOOL_USE_ID,
)
from sidecar.models.tool import ToolInfo
from sidecar.models.trace import TRACE, trace_of
from sidecar.ports.bus import Clock
from sidecar.ports.tools import ToolBus, ToolCall
from sidecar.runtime.bounded_work import BoundedWork
from sidecar.runtime.redaction import told
from sidecar.runtime.retry import RetryDelay

# A provider that restarts: so often is a call made again that nobody took, after so long.
_TRIES = 2
PROGRESS_EVERY_S = 0.5
MOST_PROGRESS_BYTES = 4_096
_NOT_IN_HEADERS = re.compile(r"[^!-~]")
_GONE = "the version of the tool that this job began with is no longer registered"
_MAYBE = "; whether it took effect is not known"


class CallOutcome(NamedTuple):
    """A call that has ended: its result for the model, its event, what the job's result has to say of it."""

    kept: StoredResult
    activity: ToolActivity
    warnings: tuple[str, ...] = ()
    child: Child | None = None
    is_estimated: bool = False


class ToolClient:
    """Calls tools. `check_output` holds an output against the tool's schema; what is large is read by `work`."""

    def __init__(
        self,
        *,
        bus: ToolBus,
        check_output: Check,
        work: BoundedWork,
        clock: Clock,
        on_unknown: Literal["repeat", "tell"],
        most_bytes: int,
    ) -> None:
        self._bus = bus
        self._check_output = check_output
        self._work = work
        self._clock = clock
        self._on_unknown = on_unknown
        self._most_bytes = most_bytes

    async def call(self, job: OwnedJob, wanted: PlannedCall, *, deadline: float) -> CallOutcome:
        """Make one call. `deadline`: seconds since 1970. Nothing that a provider does raises."""
        began = self._clock.monotonic()
        try:
            seen = await self._seen(job, wanted, deadline)
        except SidecarError as e:
            return failed(wanted, told(e), elapsed_ms=self._ms_since(began), details=e.details)
        return returned(wanted, seen, most_bytes=self._most_bytes, elapsed_ms=self._ms_since(began))

    async def _seen(self, job: OwnedJob, wanted: PlannedCall, deadline: float) -> Shown:
        """A call's output as the model may have it."""
        info, tenant = wanted.tool.info, job.state.tenant
        if info is None:
            raise Permanent(_GONE, code="tool_failed")
        payload = await self._reply(self._call_of(job, wanted, info, deadline), wanted)
        if len(payload) > MOST_READ_INLINE:
            return await self._read_away(tenant, info, wanted.block.id, payload)
        value = clean(parse(payload))
        refuse(await self._check_output(tenant, info, value))
        return shown(wanted.block.id, value, most_bytes=self._most_bytes)

    async def _read_away(self, tenant: str, info: ToolInfo, use_id: str, payload: bytes) -> Shown:
        schema = None if info.output_schema is None else encode(info.output_schema)
        try:
            return await self._work.run(tenant, read_large, use_id, payload, schema, self._most_bytes)
        except TooCostly as e:
            why = f"reading the tool's reply {e.message}: send less, or simplify output_schema"
            raise Permanent(why, code="tool_failed") from e

    async def _reply(self, call: ToolCall, wanted: PlannedCall) -> bytes:
        """The provider's reply. A call that cannot have run is made again, for a moment, or while the bus is away.

        So is one whose answer was lost with the bus, where it may be repeated.
        """
        tries, delay = 0, RetryDelay(self._clock, "calling a tool", next_s=0.25, factor=4.0)
        while True:
            try:
                return await self._bus.call(call)
            except Temporary as e:
                tries += 1
                if not self._may_repeat(e, wanted) or (tries > _TRIES and not e.details.get("is_bus_away")):
                    if e.details.get("outcome") == "none":
                        raise
                    raise Permanent(told(e) + _MAYBE, code="tool_failed", details=e.details) from e
                await delay.after(e)

    def _may_repeat(self, error: Temporary, wanted: PlannedCall) -> bool:
        if error.details.get("outcome") == "none":
            return True
        is_lost = isinstance(error, BusUnavailable) or bool(error.details.get("is_bus_away"))
        return is_lost and (wanted.tool.is_idempotent or self._on_unknown == "repeat")

    def _call_of(self, job: OwnedJob, wanted: PlannedCall, info: ToolInfo, deadline: float) -> ToolCall:
        state = job.state
        headers = {
            HEADER_JOB_ID: state.job,
            HEADER_TENANT: state.tenant,
            HEADER_TOOL_USE_ID: _NOT_IN_HEADERS.sub("_", wanted.block.id),
            HEADER_IDEMPOTENCY_KEY: idempotency_key(state.tenant, state.job, wanted),
            HEADER_DEADLINE: rfc3339(deadline),
        }
        headers |= TRACE.get() or trace_of(job.headers)
        return ToolCall(
            subject=info.subject,
            payload=encode(wanted.block.input),
            headers=headers,
            timeout_s=info.timeout_s,
            deadline=deadline,
            on_progress=ProgressTold(job, wanted, self._clock).hear,
        )

    def _ms_since(self, began: float) -> int:
        return round(1000 * (self._clock.monotonic() - began))


class ProgressTold:
    """What a tool says of a call under way becomes events of its job, two a second at most."""

    def __init__(self, job: OwnedJob, wanted: PlannedCall, clock: Clock) -> None:
        self._job = job
        self._wanted = wanted
        self._clock = clock
        self._began = clock.monotonic()
        self._next_at = 0.0

    def hear(self, payload: bytes) -> None:
        """What is too long, or no JSON, is passed over: it is only said in between."""
        now = self._clock.monotonic()
        if now < self._next_at or len(payload) > MOST_PROGRESS_BYTES:
            return
        try:
            value = clean(parse(payload))
        except SidecarError:
            return
        self._next_at = now + PROGRESS_EVERY_S
        elapsed_ms = round(1000 * (now - self._began))
        self._job.progress.tool(_activity(self._wanted, "progress", output=value, elapsed_ms=elapsed_ms))


def called(wanted: PlannedCall) -> ToolActivity:
    return _activity(wanted, "called", input=wanted.block.input)


def returned(wanted: PlannedCall, seen: Shown, *, most_bytes: int, elapsed_ms: int) -> CallOutcome:
    """The end of a call that went well."""
    block, said, cut_from = seen
    warnings: tuple[str, ...] = ()
    if cut_from is not None:
        warnings = (f"the output of {wanted.tool.name} was cut to {most_bytes} of {cut_from} bytes",)
    return CallOutcome(
        StoredResult(call=wanted.call, outcome="returned", block=block),
        _activity(wanted, "returned", output=said, elapsed_ms=elapsed_ms),
        warnings,
    )


def failed(
    wanted: PlannedCall, message: str, *, elapsed_ms: int | None = None, details: dict[str, Any] | None = None
) -> CallOutcome:
    """The end of a call that did not go well: the model is told, the job goes on."""
    text = error_text(message)
    error = ErrorInfo(code="tool_failed", message=text, details=clean(details or {}))
    return CallOutcome(
        StoredResult(call=wanted.call, outcome="failed", block=error_block(wanted.block.id, text)),
        _activity(wanted, "failed", error=error, elapsed_ms=elapsed_ms),
    )


def _activity(
    wanted: PlannedCall, phase: Literal["called", "progress", "returned", "failed"], **more: Any
) -> ToolActivity:
    pin = wanted.tool.pin
    return ToolActivity(
        phase=phase,
        tool=wanted.tool.spec.name,
        version=pin.version or None,
        tool_use_id=wanted.block.id,
        **more,
    )
