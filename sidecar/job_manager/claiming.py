"""Whose job is it: what to do with a request whose job already has a state document. Pure."""

from enum import Enum

from sidecar.errors import Conflict, Permanent
from sidecar.models.job import JobState

# How many owners a job may lose for each that counts against it.
SILENT_FACTOR = 10


class Claim(Enum):
    TAKE = "take"  # queued, or left by an owner that fell silent: write over exactly what was read
    FINISH = "finish"  # over, but its request still stands: repeat what is missing of the end
    DROP = "drop"  # a second request with the id of another job: never run
    LEAVE = "leave"  # another replica claimed it for this very grant


class ClaimedElsewhere(Conflict):
    """Another replica, `owner`, has claimed the job as `attempt`; the grant did not know of it."""

    def __init__(self, state: JobState) -> None:
        super().__init__(f"job {state.job} is {state.owner}'s as attempt {state.attempt}")
        self.attempt = state.attempt
        self.owner = state.owner


def judge(state: JobState, *, request_seq: int, granted_attempt: int) -> Claim:
    """`granted_attempt` is the attempt the scheduler knew of when it granted the job. What was handed back
    (`queued`, whatever its attempt) is anybody's.
    """
    if state.request_seq != request_seq:
        return Claim.DROP
    if state.is_terminal:
        return Claim.FINISH
    if state.attempt > granted_attempt and state.state != "queued":
        return Claim.LEAVE
    return Claim.TAKE


def prevails(found: JobState, *, over: JobState) -> bool:
    """Whether the document `found` takes a job away from the owner whose own is `over`.

    Attempts only grow: a later one is the next owner's, or an end that others decided. Nobody who keeps to that
    writes an earlier one, or the same. But where a document was lost, two may have begun the same attempt: then an
    end stands, and of two owners the first by name goes on, so that they do not take the job from each other for
    ever.
    """
    if found.attempt != over.attempt:
        return found.attempt > over.attempt
    if found.request_seq != over.request_seq:
        return False
    if found.is_terminal:
        return True
    return found.owner is not None and found.owner < (over.owner or "")


def crash_loop(
    state: JobState,
    *,
    max_attempts: int,
) -> Permanent | None:
    """The error of a job that has taken `max_attempts` owners down with it; None while it may be tried.

    Owners whose end had other reasons do not count against the job, but a job may not go on like that for ever.
    """
    if state.crashes < max_attempts and state.silent < max_attempts * SILENT_FACTOR:
        return None
    return Permanent(
        f"{state.silent} replicas fell silent while they had this job; its request is kept in LLM_DEAD",
        code="crash_loop",
        details={"crashes": state.crashes, "silent": state.silent, "last_owner": state.owner},
    )


def is_last_chance(state: JobState, *, max_attempts: int) -> bool:
    """Whether one more crash ends the job: then it should be clear that the crash is its own."""
    return state.crashes > 0 and state.crashes == max_attempts - 1


def counts_against(state: JobState, *, restarts: int) -> bool:
    """Whether the silence of one more owner speaks against the job; `restarts`: of replicas, since it first ran.

    A job that takes its owners down explains as many restarts as owners it lost. Restarts beyond that had other
    reasons (a node that goes, an operator, a storm), and each of them may excuse one lost owner.
    """
    unexplained = restarts - (state.silent + 1)
    excused = state.silent - state.crashes
    return excused >= unexplained
