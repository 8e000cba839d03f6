"""A job's conversation with its model: turns, and tool calls between them, until there is a whole answer.

    turn ──▶ calls? ──no──▶ answer
      ▲        │ yes
      │        ▼
      └── results in the order of the calls ◀── calls in parallel, the slot given back while they take long

After each turn and each result a step is journalled, so that whoever owns the job next goes on from there.
"""

from typing import Literal

import msgspec

from sidecar.config.settings import JobsSettings
from sidecar.conversation import tool_turn
from sidecar.conversation.model_calls import GrantedQuota, ModelCaller
from sidecar.conversation.recovery import JournalRecovery
from sidecar.conversation.tool_execution import ToolExecutor, ToolRun
from sidecar.conversation.tool_selection import ToolSelection, has_named, inline_names, specs
from sidecar.conversation.tool_turn import Check, OfferedTool
from sidecar.coordinator.service import Selection
from sidecar.coordinator.token_estimate import call_tokens, next_call_tokens
from sidecar.errors import Permanent, SidecarError
from sidecar.job_manager.job import OwnedJob
from sidecar.job_manager.journal import Pin, StepJournal, TurnAnswer, in_order, spoken
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.content import Message, ToolUseBlock
from sidecar.models.event import Status
from sidecar.models.facts import RunFacts
from sidecar.models.profile import Candidate
from sidecar.models.request import ToolChoice
from sidecar.models.result import Usage
from sidecar.ports.bus import Clock
from sidecar.runtime.redaction import told

# A job that waits longer than this for room for its next turn says so.
SAY_WAITING_S = 0.1
# A tool that was there when the job was admitted, or may be there again, is looked for this long.
LOOK_FOR_S = 20.0
LOOK_S = 0.25


class _Talk(ToolRun, kw_only=True):
    """A run with what the next turn needs. `before` are messages that no turn has taken up yet."""

    call: ModelCall
    selection: Selection
    base: tuple[Message, ...]
    before: tuple[Message, ...]
    inline: frozenset[str]
    last_usage: Usage | None = None


class Conversation:
    """Leads jobs through their turns."""

    def __init__(
        self,
        *,
        caller: ModelCaller,
        toolbox: ToolSelection,
        runner: ToolExecutor,
        journals: JournalRecovery,
        check_input: Check,
        clock: Clock,
        settings: JobsSettings,
    ) -> None:
        self._caller = caller
        self._toolbox = toolbox
        self._runner = runner
        self._journals = journals
        self._check_input = check_input
        self._clock = clock
        self._settings = settings

    async def answer(
        self,
        job: OwnedJob,
        call: ModelCall,
        *,
        selection: Selection,
        share: GrantedQuota,
        facts: RunFacts,
        deadline: float,
    ) -> ModelReply:
        """The whole answer to `call`. `deadline`: seconds since 1970.

        May be asked again for the same job, with a `call` whose messages go on from the first one's: that is a
        further turn, for which room is waited for as for any later turn; what tools said before is still known.
        Raises the error that ended it.
        """
        is_first = job.asked is None
        if job.asked is None:
            job.asked = len(call.messages)
        if is_first and not has_named(job.request.tools):
            job.turns = 1
            return await self._caller.answer(
                job, call, selection=selection, share=share, facts=facts, deadline=deadline
            )
        talk = _Talk(
            job=job,
            share=share,
            facts=facts,
            deadline=deadline,
            offered={},
            call=call,
            selection=selection,
            base=call.messages[: job.asked],
            before=call.messages[job.asked :],
            inline=inline_names(job.request),
        )
        if not has_named(job.request.tools):
            return await self._turn(talk)
        return await self._resumed(talk) or await self._loop(talk)

    async def _resumed(self, talk: _Talk) -> ModelReply | None:
        """Begin, or go on where an earlier owner stopped. An answer where the client has to go on itself."""
        job = talk.job
        is_taken_over = job.journal is None and job.state.attempt > 1
        if job.journal is None:
            job.journal = await self._journals.read(*job.key) if is_taken_over else StepJournal()
        talk.offered = await self._offered(talk, job.journal.pins)
        talk.call = msgspec.structs.replace(talk.call, tools=(*talk.call.tools, *specs(talk.offered.values())))
        last = job.journal.last_turn
        if not is_taken_over or last is None:
            return None
        job.turns = last.number
        await self._journals.take_up(job, talk.facts)
        on_unknown = self._settings.unknown_tool_outcome
        rest = tool_turn.resume(last, offered=talk.offered, inline=talk.inline, on_unknown=on_unknown)
        if rest.settled:
            self._runner.settle(talk, rest.settled, turn=last.number)
        if rest.calls:
            await self._runner.perform(talk, rest.calls)
        is_for_client = any(block.name in talk.inline for block in last.answer.calls)
        return self._for_client(talk, _reply_of(last.answer), is_kept=True) if is_for_client else None

    async def _loop(self, talk: _Talk) -> ModelReply:
        job, limits = talk.job, talk.job.request.budget
        max_turns = limits.max_turns or self._settings.max_turns
        max_calls = self._settings.max_tool_calls if limits.max_tool_calls is None else limits.max_tool_calls
        while True:
            reply = await self._turn(talk)
            calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
            if reply.stop_reason != "tool_use" or not calls:
                # Calls in an answer that was cut may be cut themselves: they are never made.
                return reply
            reply = msgspec.structs.replace(
                reply, content=tool_turn.distinct(reply.content, (*talk.base, *talk.journal.messages()))
            )
            calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
            plan = tool_turn.plan(
                talk.journal,
                turn=job.turns,
                calls=calls,
                offered=talk.offered,
                inline=talk.inline,
                problems=await tool_turn.problems_of(
                    job.state.tenant,
                    calls,
                    offered=talk.offered,
                    inline=talk.inline,
                    check=self._check_input,
                ),
            )
            if plan.for_client == len(calls):
                return self._for_client(talk, reply, is_kept=False)
            tool_turn.check_bounds(talk.journal, plan, turn=job.turns, max_turns=max_turns, max_calls=max_calls)
            talk.facts.warn(*reply.warnings)
            await self._runner.begin(talk, _answer_of(reply, talk.before), plan, turn=job.turns)
            talk.before = ()
            if plan.calls:
                await self._runner.perform(talk, plan.calls)
            if plan.for_client:
                return self._for_client(talk, reply, is_kept=True)

    def _for_client(self, talk: _Talk, reply: ModelReply, *, is_kept: bool) -> ModelReply:
        """The answer with calls of inline tools. What the sidecar's own tools said goes with it."""
        added = talk.journal.messages()
        if added:
            own = () if is_kept else (*talk.before, Message(role="assistant", content=spoken(reply.content)))
            talk.facts.messages = (*added, *own)
        return reply

    async def _turn(self, talk: _Talk) -> ModelReply:
        """One call of the model, when there is room for it."""
        job, facts, share = talk.job, talk.facts, talk.share
        call = msgspec.structs.replace(
            talk.call,
            messages=(*talk.base, *talk.journal.messages(), *talk.before),
            tool_choice=_choice(talk.call.tool_choice, job.turns),
        )
        if job.turns or talk.offered or not share.is_open:
            facts.input_estimate = _tokens(talk, call)
            # Text of an earlier turn is no part of the answer; where there was none, nothing is to be forgotten.
            facts.has_streamed = facts.has_streamed and bool(facts.text)
        if not share.is_open:
            await self._room(talk, call)
        candidate = _candidate_of(talk.selection, share.pool) or call.candidate
        job.turns += 1
        reply = await self._caller.answer(
            job,
            msgspec.structs.replace(call, candidate=candidate),
            selection=talk.selection,
            share=share,
            facts=facts,
            deadline=talk.deadline,
            turn=job.turns,
        )
        talk.last_usage = reply.usage
        return reply

    async def _room(self, talk: _Talk, call: ModelCall) -> None:
        status = Status(state="waiting", waiting_for="quota" if talk.share.holds_slot else "slot")
        timer = self._clock.call_later(SAY_WAITING_S, lambda: talk.job.progress.status(status))
        try:
            await talk.share.next_turn(
                input_tokens=talk.facts.input_estimate, max_tokens=call.params.max_tokens or 1
            )
        except SidecarError as e:
            if e.code == "budget_exceeded":
                talk.facts.stop_reason = "budget"
            raise
        finally:
            timer.cancel()

    async def _offered(self, talk: _Talk, pins: tuple[Pin, ...]) -> dict[str, OfferedTool]:
        """The job's tools. One that is not there yet is waited for, without a slot; for a moment."""
        tenant, request = talk.job.state.tenant, talk.job.request
        if pins:
            return {tool.name: tool for tool in self._toolbox.pinned(tenant, pins)}
        until = min(self._clock.now() + LOOK_FOR_S, talk.deadline)
        while True:
            try:
                return {tool.name: tool for tool in self._toolbox.named(tenant, request)}
            except Permanent as e:
                if e.code != "unknown_tool" or self._clock.now() >= until:
                    raise
                if talk.share.is_open:
                    talk.share.release()
                    await talk.job.wait_for(Status(state="waiting", waiting_for="tool", reason=told(e)))
            await self._clock.sleep(LOOK_S)


def _tokens(talk: _Talk, call: ModelCall) -> int:
    """Input tokens of the next turn: by what the model counted for the last one, where that is known."""
    family, usage, last = call.candidate.profile.family, talk.last_usage, talk.journal.last_turn
    if usage is None or last is None or talk.before:
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


def _candidate_of(selection: Selection, pool: str) -> Candidate | None:
    found = (c for c in (*selection.candidates, *selection.reserve) if c.route.pool == pool)
    return next(found, None)
