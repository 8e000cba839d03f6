"""The tool calls of one turn: in parallel within limits, each result journalled before it is told."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from sidecar.conversation.child_jobs import ChildJobs
from sidecar.conversation.run import JobRun
from sidecar.conversation.tool_client import CallOutcome, ToolClient, called, failed
from sidecar.conversation.tool_turn import Plan, PlannedCall, unmarked
from sidecar.job_manager.journal import Step, StoredResult, TurnAnswer, bill_of
from sidecar.models.codec import encode
from sidecar.models.event import Status, ToolActivity
from sidecar.models.facts import RunFacts
from sidecar.models.result import ErrorInfo
from sidecar.ports.bus import Clock
from sidecar.ports.bus import JournalStore as JournalPort
from sidecar.scheduler.tenants import USD

# How long a job holds its slot while its tools run.
PATIENCE_S = 0.05
# How long steps outlive the time of their job.
KEEP_S = 600
MOST_STEP_BYTES = 262_144
_STOPPED = "the job ended before the tool did"


class ToolExecutor:
    """Makes calls and keeps what comes of them. `most_at_once` is of one job."""

    def __init__(
        self, *, journal: JournalPort, tools: ToolClient, children: ChildJobs, clock: Clock, most_at_once: int
    ) -> None:
        self._journal = journal
        self._tools = tools
        self._children = children
        self._clock = clock
        self._most_at_once = most_at_once

    async def begin(self, run: JobRun, answer: TurnAnswer, plan: Plan, *, turn: int) -> None:
        """Keep a turn, before any of its calls is sent."""
        first = run.job.journal.steps == 0
        await run.job.progress.flush()
        self._keep(
            run,
            turn=turn,
            said=run.job.progress.said,
            answer=answer,
            pins=tuple([tool.pin for tool in run.offered.values()]) if first else (),
            sent=unmarked(plan.calls[: self._most_at_once]),
            results=plan.settled,
            bill=bill_of(run.facts),
        )
        await run.job.progress.flush()
        for kept in plan.settled:
            run.job.progress.tool(_refused(answer, kept))

    def settle(self, run: JobRun, results: Sequence[StoredResult], *, turn: int) -> None:
        """Keep results of calls that are not made (again)."""
        answer = run.job.journal.turns[-1].answer
        self._keep(run, turn=turn, results=tuple(results))
        for kept in results:
            run.job.progress.tool(_refused(answer, kept))

    async def perform(self, run: JobRun, calls: Sequence[PlannedCall]) -> None:
        """Make the calls. When this returns, all have a result, and it is kept."""
        waiting = deque(calls)
        open_calls: dict[asyncio.Task[CallOutcome], PlannedCall] = {}
        patience = _Patience(run, self._clock)
        try:
            while waiting or open_calls:
                room = self._most_at_once - len(open_calls)
                fresh = [waiting.popleft() for _ in range(min(room, len(waiting)))]
                if fresh:
                    await self._mark(run, fresh)
                for wanted in fresh:
                    run.job.progress.tool(called(wanted))
                    open_calls[self._start(run, wanted, calls)] = wanted
                done = await patience.wait(open_calls)
                for task in done:
                    del open_calls[task]
                made = sorted([task.result() for task in done], key=attrgetter("kept.call"))
                self._take(run, made, turn=calls[0].turn)
        except BaseException:
            if run.job.scope.reason is not None:
                for wanted in (*open_calls.values(),):
                    run.job.progress.tool(failed(wanted, _STOPPED).activity)
            raise
        finally:
            if open_calls:
                await _cancelled(open_calls)
        await run.job.progress.flush()

    def _start(
        self, run: JobRun, wanted: PlannedCall, calls: Sequence[PlannedCall]
    ) -> "asyncio.Task[CallOutcome]":
        if wanted.tool.child is None:
            work = self._tools.call(run.job, wanted, deadline=run.deadline)
        else:
            share = sum(1 for other in calls if other.tool.child is not None)
            left_usd = _left_usd(run)
            work = self._children.run(
                run.job,
                wanted,
                left_usd=None if left_usd is None else left_usd / share,
                deadline=run.deadline,
            )
        return asyncio.get_running_loop().create_task(work)

    async def _mark(self, run: JobRun, fresh: Sequence[PlannedCall]) -> None:
        """Write down what is about to be sent, where a second time would not be the same as once."""
        sent = run.job.journal.turns[-1].sent
        new = tuple([call for call in unmarked(fresh) if call not in sent])
        if new:
            self._keep(run, turn=fresh[0].turn, sent=new)
            # Stored before the call is sent: a new owner that found no mark would send it a second time.
            await run.job.progress.flush()

    def _take(self, run: JobRun, made: Sequence[CallOutcome], *, turn: int) -> None:
        """Keep results, and then tell of them."""
        for some in _by_size(made):
            is_billed = False
            for one in some:
                if one.child is not None or one.warnings:
                    is_billed = True
                    run.facts.warn(*one.warnings)
                    _count_child(run.facts, one)
            bill = bill_of(run.facts) if is_billed else None
            self._keep(run, turn=turn, results=tuple([one.kept for one in some]), bill=bill)
            for one in some:
                run.job.progress.tool(one.activity)

    def _keep(self, run: JobRun, *, turn: int, **of_step: object) -> None:
        """Append a step, after what was said so far."""
        job, journal = run.job, run.job.journal
        step = Step(number=journal.steps + 1, turn=turn, attempt=job.state.attempt)
        step = msgspec.structs.replace(step, **of_step)
        job.journal = journal.after(step)
        payload = encode(step)
        keep_s = max(0, int(run.deadline - self._clock.now())) + KEEP_S
        tenant, name = job.key
        job.progress.keep(lambda fence: self._journal.append(tenant, name, payload, fence=fence, keep_s=keep_s))


class _Patience:
    """Waits for tools: for a moment with the slot in hand, then without it, the job being `waiting`."""

    def __init__(self, run: JobRun, clock: Clock) -> None:
        self._run = run
        self._clock = clock
        self._ends_at = clock.monotonic() + PATIENCE_S
        self._rests = False

    async def wait(
        self, calls: "dict[asyncio.Task[CallOutcome], PlannedCall]"
    ) -> "set[asyncio.Task[CallOutcome]]":
        """Those that have ended, at least one."""
        if not self._rests:
            has_child = not all([wanted.tool.child is None for wanted in calls.values()])
            done = await self._some(calls, 0.0 if has_child else self._ends_at - self._clock.monotonic())
            if done:
                return done
            self._rests = True
            # The slot goes first: the write may take as long as the bus is away, and others could use the slot.
            self._run.reservation.release()
            await self._run.job.wait_for(Status(state="waiting", waiting_for="tool"))
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        return done

    async def _some(
        self, calls: Iterable["asyncio.Task[CallOutcome]"], seconds: float
    ) -> "set[asyncio.Task[CallOutcome]]":
        nap: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        any_of: list[asyncio.Future[Any]] = [*calls, nap]
        timer = self._clock.call_later(max(0.0, seconds), lambda: None if nap.done() else nap.set_result(None))
        try:
            await asyncio.wait(any_of, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            nap.cancel()
        return {task for task in calls if task.done()}


async def _cancelled(calls: Iterable["asyncio.Task[CallOutcome]"]) -> None:
    tasks = set(calls)
    for task in tasks:
        task.cancel()
    if tasks:
        # Waited for: until they have ended they may still tell their providers to stop.
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def _by_size(made: Sequence[CallOutcome]) -> Iterable[list[CallOutcome]]:
    """In parts whose results fit one step; a step has to fit one message of the bus."""
    part: list[CallOutcome] = []
    size = 0
    for one in made:
        added = len(encode(one.kept))
        if part and size + added > MOST_STEP_BYTES:
            yield part
            part, size = [], 0
        part.append(one)
        size += added
    if part:
        yield part


def _left_usd(run: JobRun) -> float | None:
    most_usd = run.job.request.budget.max_cost_usd
    return None if most_usd is None else most_usd - (run.facts.cost_usd or 0.0)


def _count_child(facts: RunFacts, made: CallOutcome) -> None:
    """A child's bill is part of its parent's. The tenant's day was charged by the child itself."""
    child = made.child
    if child is None:
        return
    facts.children.append(child)
    facts.usage += child.usage
    if made.is_estimated:
        facts.usage_basis = "estimated"
    if child.cost_usd is None:
        facts.cost_usd = None
    elif facts.cost_usd is not None:
        facts.cost_usd += child.cost_usd
        facts.counted_micro_usd += round(child.cost_usd * USD)


def _refused(answer: TurnAnswer, kept: StoredResult) -> ToolActivity:
    """The event of a call that was not made."""
    block = answer.calls[kept.call]
    text = kept.block.content if isinstance(kept.block.content, str) else ""
    return ToolActivity(
        phase="failed",
        tool=block.name,
        tool_use_id=block.id,
        error=ErrorInfo(code="tool_failed", message=text),
    )
