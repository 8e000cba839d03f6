"""Tools that are jobs: a call becomes a durable job of the same tenant, whose result is the call's output."""

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

from sidecar.config.settings import JobTool
from sidecar.conversation.tool_client import CallOutcome, failed, returned
from sidecar.conversation.tool_output import clean, shown
from sidecar.conversation.tool_turn import PlannedCall
from sidecar.errors import BusRefused, BusUnavailable, Permanent
from sidecar.job_manager.job import OwnedJob
from sidecar.models.base import FieldError
from sidecar.models.codec import decode_event, encode
from sidecar.models.content import Message
from sidecar.models.request import JobBudget, JobRequest, Params
from sidecar.models.result import Child, Result
from sidecar.models.subjects import HEADER_DEPTH, HEADER_JOB_ID, HEADER_MESSAGE_ID, is_name
from sidecar.models.trace import TRACE, trace_of
from sidecar.ports.bus import Clock, Intake, JobStore, Lane, Publisher
from sidecar.runtime.lifecycle import logged, within
from sidecar.runtime.redaction import told
from sidecar.runtime.retry import keep_trying

log = logging.getLogger(__name__)

# How often a child's document is looked at: its result event can get lost.
LOOK_S = 5.0


class ChildJobs:
    """Runs jobs below jobs. A child's id follows from its call, so that no owner of the parent runs it twice."""

    def __init__(
        self,
        *,
        intake: Intake,
        store: JobStore,
        publisher: Publisher,
        clock: Clock,
        most_depth: int,
        most_bytes: int,
    ) -> None:
        self._intake = intake
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._most_depth = most_depth
        self._most_bytes = most_bytes

    async def run(
        self, job: OwnedJob, wanted: PlannedCall, *, left_usd: float | None, deadline: float
    ) -> CallOutcome:
        """Make one call. `left_usd` is what it may cost at most, `deadline` in seconds since 1970."""
        began = self._clock.monotonic()
        try:
            child, result = await self._result(job, wanted, left_usd, deadline)
        except Permanent as e:
            return failed(wanted, told(e))
        except FieldError as e:
            return failed(wanted, e.message)
        made = self._made(wanted, result, round(1000 * (self._clock.monotonic() - began)))
        model = result.model
        return made._replace(
            child=Child(job=child, state=result.state, model=model, usage=result.usage, cost_usd=result.cost_usd),
            is_estimated=result.usage_basis == "estimated",
        )

    async def cancel(self, tenant: str, job: str, calls: list[tuple[int, int]]) -> None:
        """Cancel the children of these calls, given as turn and place."""
        for turn, call in calls:
            with logged("cancelling a child", job=job):
                await self._store.mark_cancelled(tenant, child_id(job, turn, call), reason=f"job {job} has ended")

    def _made(self, wanted: PlannedCall, result: Result, elapsed_ms: int) -> CallOutcome:
        if result.state != "succeeded":
            why = f"{result.error.code}: {result.error.message}" if result.error else f"it was {result.state}"
            return failed(wanted, f"the job did not succeed: {why}", elapsed_ms=elapsed_ms)
        if result.output.object is not None:
            return failed(wanted, "the job's answer is too large to be passed on", elapsed_ms=elapsed_ms)
        seen = shown(wanted.block.id, clean(_value(result)), most_bytes=self._most_bytes)
        return returned(wanted, seen, most_bytes=self._most_bytes, elapsed_ms=elapsed_ms)

    async def _result(
        self, job: OwnedJob, wanted: PlannedCall, left_usd: float | None, deadline: float
    ) -> tuple[str, Result]:
        tool, state = wanted.tool.child, job.state
        if tool is None:
            raise Permanent(f"{wanted.tool.name} is no job", code="tool_failed")
        depth = depth_of(job) + 1
        if depth > self._most_depth:
            raise Permanent(f"jobs may be nested {self._most_depth} deep: do this without it", code="tool_failed")
        child = child_id(state.job, wanted.turn, wanted.call)
        request = request_of(
            tool,
            wanted.block.input,
            parent=state.job,
            left_usd=left_usd,
            deadline=deadline,
            filters=job.request.filters,
        )
        headers = dict(TRACE.get() or trace_of(job.headers))
        headers |= {
            HEADER_JOB_ID: child,
            HEADER_DEPTH: str(depth),
            HEADER_MESSAGE_ID: f"{state.tenant}:{child}",
        }
        lane = Lane(state.tenant, tool.job_class or state.job_class)
        waiter = await self._publisher.wait_result(state.tenant, child)
        try:
            found = await self._finished(state.tenant, child)
            if found is None:
                await self._submit(lane, encode(request), headers)
                found = await self._heard(waiter.payload, state.tenant, child)
            return child, found
        finally:
            await waiter.close()

    async def _submit(self, lane: Lane, payload: bytes, headers: dict[str, str]) -> None:
        try:
            # May be repeated: the message id follows from parent and call, and the stream stores one of each.
            await keep_trying(
                "submitting a child", lambda: self._intake.submit(lane, payload, headers), clock=self._clock
            )
        except BusRefused as e:
            raise Permanent(f"the job was not taken: {told(e)}", code="tool_failed") from e

    async def _heard(self, payload: Any, tenant: str, child: str) -> Result:
        while True:
            try:
                event = decode_event(await within(self._clock, LOOK_S, payload(), what="a child's result"))
                if isinstance(event.data, Result):
                    return event.data
            except BusUnavailable as e:
                log.debug("still waiting for a child", extra={"job": child, "error": e.message})
            found = await self._finished(tenant, child)
            if found is not None:
                return found

    async def _finished(self, tenant: str, child: str) -> Result | None:
        stored = await keep_trying(
            "reading a child's state", lambda: self._store.get(tenant, child), clock=self._clock
        )
        return stored.state.result if stored is not None else None


def child_id(parent: str, turn: int, call: int) -> str:
    """The id of a call's job."""
    plain = f"{parent}-c{turn}-{call}"
    return plain if is_name(plain) else f"c{hashlib.sha256(plain.encode()).hexdigest()[:40]}"


def depth_of(job: OwnedJob) -> int:
    """How many jobs are above this one. What a client writes into the header can only make it more."""
    given = job.headers.get(HEADER_DEPTH, "0")
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 4 else 0


def request_of(
    tool: JobTool,
    given: dict[str, Any],
    *,
    parent: str,
    left_usd: float | None,
    deadline: float,
    filters: tuple[str, ...] = (),
) -> JobRequest:
    """The child's request; `filters` are those that the parent's names.

    Raises FieldError for a prompt that no model would take.
    """
    most_usd = min((usd for usd in (tool.max_cost_usd, left_usd) if usd is not None), default=None)
    if most_usd is not None and most_usd <= 0:
        raise Permanent("nothing is left of the budget for another job", code="budget_exceeded")
    return JobRequest(
        messages=(Message(role="user", content=tool.filled(given)),),
        system=tool.system,
        model=tool.model,
        params=Params(max_tokens=tool.max_tokens),
        tools=tool.tools,
        timeout_s=tool.timeout_s,
        deadline=datetime.fromtimestamp(deadline, UTC),
        budget=JobBudget(max_cost_usd=most_usd, max_turns=tool.max_turns, max_tool_calls=tool.max_tool_calls),
        filters=filters,
        metadata={"parent": parent},
    )


def _value(result: Result) -> Any:
    if result.output.structured is not None:
        return result.output.structured
    cut = (
        f"\n[the answer ends early: {result.stop_reason}]"
        if result.stop_reason in ("max_tokens", "budget")
        else ""
    )
    return result.output.text + cut
