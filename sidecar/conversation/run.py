"""One granted job on this worker, from its claim to its end: the value that every step takes."""

from dataclasses import dataclass, field
from math import inf

from sidecar.conversation.reservation import JobReservation
from sidecar.conversation.tool_turn import OfferedTool
from sidecar.coordinator.fallback import Failure
from sidecar.coordinator.health import Caller
from sidecar.coordinator.service import Selection
from sidecar.errors import SidecarError
from sidecar.job_manager.job import OwnedJob
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.content import Message
from sidecar.models.facts import RunFacts
from sidecar.models.profile import Candidate
from sidecar.models.result import Attempt, Purpose, Result, Usage
from sidecar.response_formatter.filters.chain import FilterChain


@dataclass(slots=True)
class ConversationPlan:
    """What a job asks of its models, of no particular candidate: the first call, and who can answer it."""

    call: ModelCall
    selection: Selection

    def candidate_on(self, pool: str) -> Candidate:
        """The candidate of a quota pool; the call's own where the pool is none of the selection's."""
        for candidate in (*self.selection.candidates, *self.selection.reserve):
            if candidate.route.pool == pool:
                return candidate
        return self.call.candidate


@dataclass(slots=True, kw_only=True)
class JobRun:
    """What the job is, what it holds of slots and quota, what it has cost so far.

    `stored_at` is when its request was stored, `deadline` the end of its time, both in seconds since 1970.
    `has_tools`: the sidecar has tools of the request to run; `offered` are these by name, `inline` names of its
    client's own. `extra` are messages that no turn has taken up yet; `turns` counts its calls of a model, and the
    `failures` are of the turn under way, as are the calls `counted` toward `jobs.max_calls`; `is_repair`: the
    turn asks again for the answer of the one before, and goes on counting. `caller` is
    what breakers know of it. `purpose` is that of the call under way, `reply` its answer
    once that is whole, `made` the account of it once it has ended. `result` is there once the work is over,
    whichever way.
    """

    job: OwnedJob
    reservation: JobReservation
    filters: FilterChain
    facts: RunFacts
    stored_at: float
    has_tools: bool
    caller: Caller
    deadline: float = inf
    plan: ConversationPlan = field(init=False)
    offered: dict[str, OfferedTool] = field(default_factory=dict)
    inline: frozenset[str] = frozenset()
    extra: tuple[Message, ...] = ()
    turns: int = 0
    failures: list[Failure] = field(default_factory=list)
    counted: int = 0
    is_repair: bool = False
    purpose: Purpose | None = None
    reply: ModelReply | None = None
    made: Attempt | None = None
    last_usage: Usage | None = None
    result: Result | None = None

    @property
    def ended(self) -> Result:
        """The job's one result. Raises SidecarError while the work goes on."""
        if self.result is None:
            raise SidecarError("the job has no result yet")
        return self.result

    def messages(self) -> tuple[Message, ...]:
        """The conversation so far: what was asked, what turns with tools added, what no turn has taken up."""
        return (*self.plan.call.messages, *self.job.journal.messages(), *self.extra)
