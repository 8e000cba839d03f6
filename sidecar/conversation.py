"""A job's conversation with its model: one turn after the other until there is a whole answer."""

import msgspec

from sidecar.calling import Caller, Share
from sidecar.coordinator.service import Selection
from sidecar.job_manager.job import OwnedJob
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.facts import RunFacts
from sidecar.models.profile import Candidate
from sidecar.request_handler.estimate import call_tokens


class Conversation:
    """Leads jobs through their turns."""

    def __init__(self, *, caller: Caller) -> None:
        self._caller = caller

    async def answer(
        self,
        job: OwnedJob,
        call: ModelCall,
        *,
        selection: Selection,
        share: Share,
        facts: RunFacts,
        deadline: float,
    ) -> ModelReply:
        """The whole answer to `call`. `deadline`: seconds since 1970.

        May be asked again for the same job, with a `call` whose messages go on from the first one's: that is a
        further turn, for which room is waited for as for any later turn. Raises the error that ended it.
        """
        if not share.is_open:
            facts.input_estimate = call_tokens(
                call.messages, system=call.system, tools=call.tools, family=call.candidate.profile.family
            )
            await share.next_turn(input_tokens=facts.input_estimate, max_tokens=call.params.max_tokens or 1)
            call = msgspec.structs.replace(call, candidate=_candidate_of(selection, share.pool) or call.candidate)
        return await self._caller.answer(
            job, call, selection=selection, share=share, facts=facts, deadline=deadline
        )


def _candidate_of(selection: Selection, pool: str) -> Candidate | None:
    found = (c for c in (*selection.candidates, *selection.reserve) if c.route.pool == pool)
    return next(found, None)
