"""A job's conversation with its model: turns, and tool calls between them, until there is a whole answer.

    turn ──▶ calls? ──no──▶ answer
      ▲        │ yes
      │        ▼
      └── results in the order of the calls ◀── calls in parallel, the slot given back while they take long

After each turn and each result a step is journalled, so that whoever owns the job next goes on from there.
"""

from collections.abc import Awaitable
from typing import Literal

import msgspec

from sidecar.config.settings import JobsSettings
from sidecar.conversation import tool_turn
from sidecar.conversation.model_calls import ModelCaller
from sidecar.conversation.recovery import JournalRecovery
from sidecar.conversation.run import JobRun
from sidecar.conversation.tool_execution import ToolExecutor
from sidecar.conversation.tool_selection import ToolSelection, inline_names, specs
from sidecar.conversation.tool_turn import Check, OfferedTool
from sidecar.conversation.waiting import rooms_of, saying
from sidecar.coordinator.fallback import Opening
from sidecar.coordinator.service import Coordinator
from sidecar.coordinator.token_estimate import call_tokens, next_call_tokens
from sidecar.errors import Conflict, JobCancelled, JobHeld, Permanent, SidecarError
from sidecar.job_manager.journal import Pin, TurnAnswer, in_order, spoken, strikes
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.content import Message, TextBlock, ToolUseBlock
from sidecar.models.event import Status
from sidecar.models.request import ToolChoice
from sidecar.models.result import Usage
from sidecar.ports.bus import Clock
from sidecar.response_formatter import structured
from sidecar.response_formatter.structured import StructuredAnswers
from sidecar.runtime.redaction import told

# A conversation stays with its model so long although another has room: elsewhere no part of it is cached.
STAY_S = 2.0
# A tool that was there when the job was admitted, or may be there again, is looked for this long.
LOOK_FOR_S = 20.0
LOOK_S = 0.25
LONGEST_REPAIRED = 200_000
_WORTH_ASKING = ("end_turn", "stop_sequence", "malformed_output", "other")


class Conversation:
    """Leads jobs through their turns."""

    def __init__(
        self,
        *,
        caller: ModelCaller,
        coordinator: Coordinator,
        toolbox: ToolSelection,
        runner: ToolExecutor,
        journals: JournalRecovery,
        answers: StructuredAnswers,
        check_input: Check,
        clock: Clock,
        settings: JobsSettings,
    ) -> None:
        self._caller = caller
        self._coordinator = coordinator
        self._toolbox = toolbox
        self._runner = runner
        self._journals = journals
        self._answers = answers
        self._check_input = check_input
        self._clock = clock
        self._settings = settings

    def until_answered(self, run: JobRun) -> Awaitable[ModelReply]:
        """The whole answer to the run's plan, after as many turns as it takes. Raises the error that ended it."""
        if run.has_tools:
            run.inline = inline_names(run.job.request)
            return self._loop(run, is_first=True)
        run.turns = 1
        if run.job.request.tools:
            return self._readable(run)
        return self._caller.call(run, run.plan.call)

    async def _readable(self, run: JobRun) -> ModelReply:
        """The answer of a job whose tools are all its client's. Calls in it that cannot be read go back to the
        model, as those of the sidecar's own tools do.
        """
        reply = await self._caller.call(run, run.plan.call)
        most_turns = run.job.request.budget.max_turns or self._settings.max_turns
        while reply.unreadable:
            if run.turns > tool_turn.MOST_STRIKES or run.turns >= most_turns:
                return tool_turn.given_up(reply)
            run.facts.warn(*reply.warnings)
            run.last_usage = None
            run.extra = (*run.extra, *tool_turn.refusal_turn(reply, run.messages()))
            reply = await self._turn(run)
        return reply

    async def repaired(self, run: JobRun, reply: ModelReply) -> ModelReply:
        """The answer, asked for once more where it does not fit the request's schema, and where time, turns and
        money are left for that.

        One that does not fit comes back only where asking again did not help. Raises nothing because of the
        further turn but Conflict and JobCancelled. Where text was streamed the further turn is a new attempt.
        """
        spec = run.job.request.output
        if spec is None or reply.stop_reason not in _WORTH_ASKING:
            return reply
        texts = [block.text for block in reply.content if isinstance(block, TextBlock)]
        unfit = await self._answers.problem(run.job.state.tenant, texts, spec)
        if unfit is None or unfit.is_costly or not self._is_worth_repairing(run, texts):
            return reply
        run.facts.warn(f"an answer {unfit.place}: the model was asked once more")
        run.is_repair = True
        run.plan.call = msgspec.structs.replace(run.plan.call, tool_choice="none")
        run.extra = (*run.extra, *structured.repair_turn(texts, unfit))
        attempt, shown = run.job.state.attempt, list(run.facts.text)
        try:
            return await (self._loop(run) if run.has_tools else self._turn(run))
        except (Conflict, JobCancelled, JobHeld):
            raise
        except SidecarError as e:
            run.facts.warn(f"asking once more failed: {told(e)}")
            if run.job.state.attempt != attempt:
                await _say_again(run, shown)
            run.facts.text[:] = shown
            return reply

    def _is_worth_repairing(self, run: JobRun, texts: list[str]) -> bool:
        if sum(map(len, texts)) > LONGEST_REPAIRED or run.counted >= self._settings.max_calls:
            return False
        attempts, most = run.facts.attempts, run.job.request.budget.max_turns
        if most is not None and sum(attempt.outcome == "ok" for attempt in attempts) >= most:
            return False
        last_s = attempts[-1].elapsed_ms / 1000 if attempts else 0.0
        return run.deadline - self._clock.now() > last_s

    async def _resumed(self, run: JobRun) -> ModelReply | None:
        """Begin, or go on where an earlier owner stopped. An answer where the client has to go on itself."""
        job = run.job
        is_taken_over = not job.is_journal_read and job.state.attempt > 1
        if is_taken_over:
            job.journal = await self._journals.read(*job.key)
        job.is_journal_read = True
        run.offered = await self._offered(run, job.journal.pins)
        if run.filters.screen_event is not None:
            run.filters.know(job.request, run.offered)
        run.plan.call = msgspec.structs.replace(
            run.plan.call, tools=(*run.plan.call.tools, *specs(run.offered.values()))
        )
        last = job.journal.last_turn
        if not is_taken_over or last is None:
            return None
        run.turns = last.number
        await self._journals.take_up(job, run.facts)
        on_unknown = self._settings.unknown_tool_outcome
        rest = tool_turn.resume(last, offered=run.offered, inline=run.inline, on_unknown=on_unknown)
        if rest.settled:
            self._runner.settle(run, rest.settled, turn=last.number)
        if rest.calls:
            await self._runner.perform(run, rest.calls)
        is_for_client = any(
            block.name in run.inline and last.result_of(place) is None
            for place, block in enumerate(last.answer.calls)
        )
        return self._for_client(run, _reply_of(last.answer), is_kept=True) if is_for_client else None

    async def _loop(self, run: JobRun, *, is_first: bool = False) -> ModelReply:
        if is_first and (begun := await self._resumed(run)) is not None:
            return begun
        job, limits = run.job, run.job.request.budget
        max_turns = limits.max_turns or self._settings.max_turns
        max_calls = self._settings.max_tool_calls if limits.max_tool_calls is None else limits.max_tool_calls
        while True:
            reply = await self._turn(run)
            calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
            if reply.stop_reason != "tool_use" or not calls:
                # Calls in an answer that was cut may be cut themselves: they are never made.
                return reply
            journal = job.journal
            if reply.unreadable and tool_turn.is_hopeless(reply, strikes(journal)):
                return tool_turn.given_up(reply)
            reply = msgspec.structs.replace(
                reply, content=tool_turn.distinct(reply.content, (*run.plan.call.messages, *journal.messages()))
            )
            calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
            plan = tool_turn.plan(
                journal,
                turn=run.turns,
                calls=calls,
                offered=run.offered,
                inline=run.inline,
                problems=await tool_turn.problems_of(
                    job.state.tenant,
                    calls,
                    offered=run.offered,
                    inline=run.inline,
                    unreadable=tool_turn.unreadable_in(reply) if reply.unreadable else {},
                    check=self._check_input,
                ),
            )
            if plan.for_client == len(calls):
                return self._for_client(run, reply, is_kept=False)
            tool_turn.check_bounds(journal, plan, turn=run.turns, max_turns=max_turns, max_calls=max_calls)
            run.facts.warn(*reply.warnings)
            await self._runner.begin(run, _answer_of(reply, run.extra), plan, turn=run.turns)
            run.extra = ()
            if plan.calls:
                await self._runner.perform(run, plan.calls)
            if plan.for_client:
                return self._for_client(run, reply, is_kept=True)

    def _for_client(self, run: JobRun, reply: ModelReply, *, is_kept: bool) -> ModelReply:
        """The answer with calls of inline tools. What the sidecar's own tools said goes with it."""
        added = run.job.journal.messages()
        if added:
            own = () if is_kept else (*run.extra, Message(role="assistant", content=spoken(reply.content)))
            run.facts.messages = (*added, *own)
        return reply

    async def _turn(self, run: JobRun) -> ModelReply:
        """One call of the model, when there is room for it."""
        facts, reservation = run.facts, run.reservation
        call = msgspec.structs.replace(
            run.plan.call, messages=run.messages(), tool_choice=_choice(run.plan.call.tool_choice, run.turns)
        )
        if run.turns or run.offered or not reservation.is_open:
            facts.input_estimate = _tokens(run, call)
            # Text of an earlier turn is no part of the answer; where there was none, nothing is to be forgotten.
            facts.has_streamed = facts.has_streamed and bool(facts.text)
        if not reservation.is_open:
            await self._room(run, call)
        run.turns += 1
        if (run.offered or run.extra) and not run.filters.is_input_plain:
            # What tools gave, and what their providers say of them, has not been looked at yet.
            call = await run.filters.input(call)
        candidate = run.plan.candidate_on(reservation.pool)
        try:
            reply = await self._caller.call(run, msgspec.structs.replace(call, candidate=candidate))
        finally:
            # Turns after it, where it calls tools, are turns of their own.
            run.is_repair = False
        run.last_usage = reply.usage
        return reply

    async def _room(self, run: JobRun, call: ModelCall) -> None:
        """Wait for room for the next turn: with the model of the last one, after a while with any candidate."""
        now = self._clock.now()
        own = Opening(run.plan.candidate_on(run.reservation.pool), now)
        others = self._coordinator.openings(run.plan.selection, tried=(), first=own, stays=True, now=now)
        openings = [own, *[Opening(other.candidate, max(other.at, now + STAY_S)) for other in others[1:]]]
        try:
            await run.reservation.next_turn(
                rooms_of(openings, now=now),
                input_tokens=run.facts.input_estimate,
                max_tokens=call.params.max_tokens or 1,
                say=saying(run),
            )
        except SidecarError as e:
            if e.code == "budget_exceeded":
                run.facts.stop_reason = "budget"
            raise

    async def _offered(self, run: JobRun, pins: tuple[Pin, ...]) -> dict[str, OfferedTool]:
        """The job's tools. One that is not there yet is waited for, without a slot; for a moment."""
        tenant, request = run.job.state.tenant, run.job.request
        if pins:
            return {tool.spec.name: tool for tool in self._toolbox.pinned(tenant, pins)}
        until = min(self._clock.now() + LOOK_FOR_S, run.deadline)
        while True:
            try:
                return {tool.spec.name: tool for tool in self._toolbox.named(tenant, request)}
            except Permanent as e:
                if e.code != "unknown_tool" or self._clock.now() >= until:
                    raise
                if run.reservation.is_open:
                    # The slot goes first: others can use it while the document is written.
                    run.reservation.release()
                    await run.job.wait_for(Status(state="waiting", waiting_for="tool", reason=told(e)))
            await self._clock.sleep(LOOK_S)


def _tokens(run: JobRun, call: ModelCall) -> int:
    """Input tokens of the next turn: by what the model counted for the last one, where that is known."""
    family, usage, last = call.candidate.profile.family, run.last_usage, run.job.journal.last_turn
    if usage is None or last is None or run.extra:
        return call_tokens(call.messages, system=call.system, tools=call.tools, family=family)
    counted = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return next_call_tokens(counted, output_tokens=usage.output_tokens, results=in_order(last), family=family)


def _choice(
    asked: Literal["auto", "any", "none"] | ToolChoice, turns: int
) -> Literal["auto", "any", "none"] | ToolChoice:
    """A tool that is forced is forced once: in every turn it would never end."""
    return asked if turns == 0 or asked == "none" else "auto"


def _answer_of(reply: ModelReply, before: tuple[Message, ...]) -> TurnAnswer:
    return TurnAnswer(
        content=reply.content,
        stop_reason=reply.stop_reason,
        raw_stop_reason=reply.raw_stop_reason,
        before=before,
    )


def _reply_of(answer: TurnAnswer) -> ModelReply:
    return ModelReply(
        content=answer.content,
        stop_reason=answer.stop_reason,
        raw_stop_reason=answer.raw_stop_reason,
        usage=Usage(),
    )


async def _say_again(run: JobRun, shown: list[str]) -> None:
    """The first answer counts after all: the attempt that stands says what clients had been shown of it."""
    if run.facts.has_streamed:
        await run.job.restart()
    run.job.progress.delta(0, text="".join(shown))
    run.facts.has_streamed = True
