"""One more turn for an answer that does not fit its schema: the model hears what is wrong, and answers again."""

import msgspec

from sidecar.conversation.model_calls import GrantedQuota
from sidecar.conversation.turns import Conversation
from sidecar.coordinator.service import Selection
from sidecar.errors import Conflict, JobCancelled, SidecarError
from sidecar.job_manager.job import OwnedJob
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.content import TextBlock
from sidecar.models.facts import RunFacts
from sidecar.ports.bus import Clock
from sidecar.response_formatter import structured
from sidecar.response_formatter.structured import StructuredAnswers
from sidecar.runtime.redaction import told

LONGEST_REPAIRED = 200_000
_WORTH_ASKING = ("end_turn", "stop_sequence", "malformed_output", "other")


class Repairing:
    """A conversation whose answer is held against the request's schema.

    Asks once more, at most, and only where time, turns and money are left for it.
    """

    def __init__(self, conversation: Conversation, *, answers: StructuredAnswers, clock: Clock) -> None:
        self._conversation = conversation
        self._answers = answers
        self._clock = clock

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
        """The whole answer; one that does not fit only where asking again did not help. Raises like the
        conversation; nothing because of the further turn but Conflict and JobCancelled.

        Where text was streamed the further turn is a new attempt. `deadline`: seconds since 1970.
        """
        reply = await self._conversation.answer(
            job, call, selection=selection, share=share, facts=facts, deadline=deadline
        )
        spec = job.request.output
        if spec is None or reply.stop_reason not in _WORTH_ASKING:
            return reply
        texts = _texts(reply)
        unfit = await self._answers.problem(job.state.tenant, texts, spec)
        if unfit is None or unfit.is_costly or not self._is_worth_it(job, texts, facts, deadline):
            return reply
        facts.warn(f"an answer {unfit.place}: the model was asked once more")
        again = msgspec.structs.replace(
            call, messages=(*call.messages, *structured.repair_turn(texts, unfit)), tool_choice="none"
        )
        attempt, shown = job.state.attempt, list(facts.text)
        try:
            return await self._conversation.answer(
                job, again, selection=selection, share=share, facts=facts, deadline=deadline
            )
        except (Conflict, JobCancelled):
            raise
        except SidecarError as e:
            facts.warn(f"asking once more failed: {told(e)}")
            if job.state.attempt != attempt:
                await _say_again(job, shown, facts)
            facts.text[:] = shown
            return reply

    def _is_worth_it(self, job: OwnedJob, texts: list[str], facts: RunFacts, deadline: float) -> bool:
        if sum(map(len, texts)) > LONGEST_REPAIRED:
            return False
        turns = sum(attempt.outcome == "ok" for attempt in facts.attempts)
        most = job.request.budget.max_turns
        if most is not None and turns >= most:
            return False
        last_s = facts.attempts[-1].elapsed_ms / 1000 if facts.attempts else 0.0
        return deadline - self._clock.now() > last_s


async def _say_again(job: OwnedJob, shown: list[str], facts: RunFacts) -> None:
    """The first answer counts after all: the attempt that stands says what clients had been shown of it."""
    if facts.has_streamed:
        await job.restart()
    job.progress.delta(0, text="".join(shown))
    facts.has_streamed = True


def _texts(reply: ModelReply) -> list[str]:
    return [block.text for block in reply.content if isinstance(block, TextBlock)]
