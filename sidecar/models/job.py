"""The state document of a job: key `<tenant>.<job>` of the KV bucket `LLM_JOB`."""

from typing import Any, Literal

from sidecar.models.base import JobClass, Open, Timestamp
from sidecar.models.prompt import PromptUse
from sidecar.models.result import Attempt, Result, TerminalState, Usage, UsageBasis

LiveState = Literal["queued", "running", "waiting"]
State = LiveState | TerminalState
TERMINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "expired", "rejected"})


class Carried(Open, frozen=True, kw_only=True):
    """What earlier owners of a job leave to its result: their calls, and what those took.

    `cost_usd` is None where a price is not known; `counted_micro_usd` is what of it the tenant's day was charged.
    `left_out` counts calls that cost nothing and are not among the `attempts`.
    """

    usage: Usage = Usage()
    usage_basis: UsageBasis = "observed"
    cost_usd: float | None = 0.0
    counted_micro_usd: int = 0
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def calls(self) -> int:
        return len(self.attempts) + self.left_out


class JobState(Open, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """A job as everybody may see it. `owner` is the replica that runs it; `started` is when the first
    attempt began, `result_n` numbers the result event.

    `silent` counts the owners that fell silent, `crashes` those of them whose end counts against the job;
    `carried` is there once an owner was lost or gave the job up, until the job ends. `prompt` is the stored
    template that the job was made of; `metadata` is the request's, once it was read.

    `held_since`: the job was begun, and has had nothing left to call from then on; `held_s`: for how long in all
    that was so before. Its time limit does not run meanwhile.

    `attempt` is 0 until a worker claims the job. The document is the commit point: once `state` is terminal
    the job is over, whatever still has to be said about it.
    """

    job: str
    tenant: str
    job_class: JobClass | str
    state: State
    attempt: int
    owner: str | None
    model: str | None
    request_seq: int
    created: Timestamp
    updated: Timestamp
    started: Timestamp | None = None
    crashes: int = 0
    result: Result | None = None
    result_n: int | None = None
    silent: int = 0
    carried: Carried | None = None
    prompt: PromptUse | None = None
    metadata: dict[str, Any] = {}

    held_since: Timestamp | None = None
    held_s: float = 0.0

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


class JobView(JobState, frozen=True, kw_only=True):
    """A job as `get` and `jobs` tell of it: its document, or what is known of one that nobody has read yet.

    `ahead` and `estimate_ms` belong to queued jobs: how many of its lane lie before it, and how long it takes
    until it runs at the rate of its lane's last ones. `error_code` is that of a job's end, where `result` is left
    out.
    """

    ahead: int | None = None
    estimate_ms: int | None = None
    error_code: str | None = None
