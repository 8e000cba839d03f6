"""What a followed job looks like: its text on stdout, what happens to it on stderr; or its events as JSON."""

import sys
from contextlib import aclosing

from sidecar.cli.invocation import Invocation
from sidecar.client import Job, JobResult
from sidecar.models.event import Delta, Event, Status, ToolActivity
from sidecar.models.result import Result

_BAR = 24


async def follow(job: Job, invocation: Invocation, *, has_events: bool = False) -> JobResult:
    """Print a job until its end; with `has_events` each event as a JSON line instead. Returns its result."""
    view = TextView(invocation)
    async with aclosing(job.events()) as events:
        async for event in events:
            if has_events:
                invocation.json(event)
            else:
                view.show(event)
    return await job.result()


class TextView:
    """One job, event by event."""

    def __init__(self, invocation: Invocation) -> None:
        self._out = invocation
        self._has_text = False
        self._attempt = 0
        self._most_ahead = 0
        self._is_drawn = False

    def show(self, event: Event) -> None:
        if self._is_drawn and not (isinstance(event.data, Status) and event.data.ahead is not None):
            self._out.note("")
            self._is_drawn = False
        if event.attempt > self._attempt:
            if self._has_text:
                self._out.data("")
                self._out.note("— the answer begins anew, what stands above is void —")
            self._attempt, self._has_text = event.attempt, False
        data = event.data
        if isinstance(data, Delta):
            self._delta(data)
        elif isinstance(data, Status) and data.ahead is not None and sys.stderr.isatty():
            self._bar(data.ahead, data)
            return
        elif isinstance(data, Status):
            self._out.note(describe_status(data))
        elif isinstance(data, ToolActivity):
            self._out.note(describe_tool(data))
        elif isinstance(data, Result):
            self._result(data)

    def _bar(self, ahead: int, status: Status) -> None:
        """Where a queued job stands, drawn over what was drawn before."""
        self._most_ahead = max(self._most_ahead, ahead, 1)
        done = round(_BAR * (1 - ahead / self._most_ahead))
        self._out.draw(f"{'█' * done}{'░' * (_BAR - done)} {describe_status(status)}")
        self._is_drawn = True

    def _delta(self, delta: Delta) -> None:
        if delta.text:
            self._out.data(delta.text, newline=False)
            self._has_text = True

    def _result(self, result: Result) -> None:
        if self._has_text:
            self._out.data("")
        elif result.output.text:
            self._out.data(result.output.text)
        elif result.output.content or result.output.structured is not None:
            self._out.json(result.output.structured or result.output.content)
        self._out.note(describe_result(result))


def describe_status(status: Status) -> str:
    """One line about a change of state."""
    if status.ahead is not None:
        about = f", about {status.estimate_ms / 1000:.0f} s" if status.estimate_ms else ""
        return f"queued, {status.ahead:,} ahead{about}"
    if status.state == "running":
        where = f" in {status.region}" if status.region else ""
        return f"running on {status.model or 'a model'}{where}" + (f": {status.reason}" if status.reason else "")
    if status.state == "waiting":
        about = f", about {status.estimate_ms / 1000:.1f} s" if status.estimate_ms else ""
        why = f": {status.reason}" if status.reason else ""
        return f"waiting for {status.waiting_for or 'its turn'}{about}{why}"
    if status.state == "retrying":
        why = f": {status.error.message}" if status.error else ""
        return f"retrying{f' with {status.next}' if status.next else ''}{why}{_so_far(status)}"
    return status.state


def _so_far(status: Status) -> str:
    """The money of a job that tries again."""
    spent = status.spent
    if spent is None:
        return ""
    cost = "cost not known" if spent.cost_usd is None else f"{spent.cost_usd:.6f} USD"
    return f" ({spent.calls} call{'s' if spent.calls > 1 else ''}, {cost} so far)"


def describe_tool(activity: ToolActivity) -> str:
    elapsed = f" after {activity.elapsed_ms} ms" if activity.elapsed_ms is not None else ""
    why = f": {activity.error.message}" if activity.error else ""
    return f"tool {activity.tool} {activity.phase}{elapsed}{why}"


def describe_result(result: Result) -> str:
    """One line about how a job ended: state, model, tokens, cost, time, and what went wrong."""
    usage, marks = result.usage, []
    if result.partial:
        marks.append("partial")
    if result.stop_reason not in (None, "end_turn"):
        marks.append(f"stopped by {result.stop_reason}")
    parts = [result.state + (f" ({', '.join(marks)})" if marks else "")]
    if result.model:
        parts.append(result.model)
    if usage.input_tokens or usage.output_tokens:
        basis = " (estimated)" if result.usage_basis == "estimated" else ""
        parts.append(f"{usage.input_tokens} in, {usage.output_tokens} out{basis}")
    if result.cost_usd is not None:
        parts.append(f"${result.cost_usd:.6f}")
    parts.append(f"{result.timings.total_ms} ms")
    lines = [" · ".join(parts)]
    if result.error is not None:
        lines.append(f"{result.error.code}: {result.error.message}")
    lines += [f"warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)
