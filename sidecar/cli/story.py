"""A job's story, from its document and its events: waits, causes, calls, money. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from sidecar.cli.view import describe_result, describe_status, describe_tool
from sidecar.models.base import epoch
from sidecar.models.event import Delta, Event, Status, ToolActivity
from sidecar.models.job import JobState
from sidecar.models.result import Attempt, Result

_PURPOSES = {
    "retry": "the same model again",
    "fallback": "another model",
    "probe": "finds out whether the model is well again",
    "repair": "asks again, the answer did not fit its schema",
}
_LIMITS = {
    "max_calls": "the turn had used up its calls (jobs.max_calls)",
    "same_failure": "the model failed three times in the same way: that follows the request",
    "total": "the job's time was over (timeout_s)",
}


def account(state: JobState, events: Sequence[Event]) -> dict[str, Any]:
    """The story as data: waits in seconds with their causes, calls, and the money."""
    calls = calls_of(state, events)
    return {
        "job": state.job,
        "tenant": state.tenant,
        "state": state.state,
        "waits": [
            {"for": status.waiting_for or status.state, "reason": status.reason, "seconds": round(seconds, 3)}
            for status, seconds in waits_of(state, events)
        ],
        "calls": calls,
        "billed_calls": sum(bool(call.may_be_billed) for call in calls),
        "cost_usd": None if state.result is None else state.result.cost_usd,
        "error": None if state.result is None else state.result.error,
        "warnings": () if state.result is None else state.result.warnings,
    }


def lines(state: JobState, events: Sequence[Event]) -> Iterator[str]:
    """The story as text: what happened when, then sums."""
    yield f"job {state.job} of {state.tenant}, class {state.job_class}: {state.state}"
    began = epoch(state.created)
    if not events:
        yield "  its events are not kept any more: what follows is its document"
    for event in events:
        told = _told(event)
        if told:
            yield f"  {epoch(event.time) - began:9.3f} s  {told}"
    waits = waits_of(state, events)
    if waits:
        yield "waited:"
    for status, seconds in waits:
        why = f", {status.reason}" if status.reason else ""
        yield f"  {seconds:9.3f} s  for {status.waiting_for or 'its turn'}{why}"
    calls = calls_of(state, events)
    if calls:
        yield "calls of models:"
    for number, call in enumerate(calls, 1):
        yield f"  {number:3}  {_call(call)}"
    if state.result is not None:
        yield from _end(state.result, calls)


def waits_of(state: JobState, events: Sequence[Event]) -> list[tuple[Status, float]]:
    """Each stretch that the job waited, with what its event said; the last one up to the document's change."""
    found: list[tuple[Status, float]] = []
    for event, after in zip(events, [*events[1:], None], strict=True):
        if isinstance(event.data, Status) and event.data.state in ("queued", "waiting"):
            until = state.updated if after is None else after.time
            found.append((event.data, max(0.0, epoch(until) - epoch(event.time))))
    return found


def calls_of(state: JobState, events: Sequence[Event]) -> tuple[Attempt, ...]:
    """The job's calls: as its result has them, else as far as events and document tell."""
    if state.result is not None:
        return state.result.attempts
    carried = state.carried.attempts if state.carried is not None else ()
    known = state.carried.calls if state.carried is not None else 0
    told = [event.data for event in events if isinstance(event.data, Status)]
    failed = [status.call for status in told if status.call and status.spent and status.spent.calls > known]
    return (*carried, *failed)


def _told(event: Event) -> str:
    data = event.data
    if isinstance(data, Status):
        why = f": {data.reason}" if data.state == "waiting" and data.reason else ""
        return describe_status(data) + why
    if isinstance(data, ToolActivity):
        return describe_tool(data)
    return "" if isinstance(data, Delta) else "the result"


def _call(call: Attempt) -> str:
    error = f": {call.error.code}, {call.error.message}" if call.error else ""
    why = f" ({_PURPOSES[call.purpose]})" if call.purpose else ""
    return f"{call.model_id} in {call.region}, {call.elapsed_ms} ms, {call.outcome}{error}{why}; {_bill(call)}"


def _bill(call: Attempt) -> str:
    if call.may_be_billed is False:
        return "costs nothing"
    if not call.usage:
        return "cost not told"
    about = " (estimated)" if call.usage_basis == "estimated" else ""
    cost = "no price is known" if call.cost_usd is None else f"{call.cost_usd or 0.0:.6f} USD"
    return f"{call.usage.input_tokens} in, {call.usage.output_tokens} out, {cost}{about}"


def _end(result: Result, calls: Sequence[Attempt]) -> Iterator[str]:
    billed = sum(bool(call.may_be_billed) for call in calls)
    cost = "no price is known" if result.cost_usd is None else f"{result.cost_usd:.6f} USD"
    children = f", of it {len(result.children)} jobs below it" if result.children else ""
    yield f"money: {cost} ({result.usage_basis}) for {billed} of {len(calls)} calls{children}"
    yield f"end: {describe_result(result)}"
    limit = result.error.details.get("limit") if result.error is not None else None
    if limit in _LIMITS:
        yield f"  because {_LIMITS[limit]}"
    for warning in result.warnings:
        yield f"  note: {warning}"
