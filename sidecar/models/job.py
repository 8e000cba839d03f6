"""The state document of a job: key `<tenant>.<job>` of the KV bucket `LLM_JOB`."""

from typing import Literal

from sidecar.models.base import JobClass, Open, Timestamp
from sidecar.models.result import Result, TerminalState

LiveState = Literal["queued", "running", "waiting"]
State = LiveState | TerminalState
TERMINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "expired", "rejected"})


class JobState(Open, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """A job as everybody may see it. `owner` is the replica that runs it; `started` is when the first
    attempt began, `crashes` counts the owners that fell silent; `result_n` numbers the result event.

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

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL
