"""The states of a job and how one follows another.

    queued ──▶ running ⇄ waiting ──▶ succeeded | failed | cancelled | expired | rejected

A job that was never queued on record (dispatched at once) begins with `running`; one that is refused at
admission begins and ends with `rejected`. A new attempt goes from `running` or `waiting` to `running`; a
replica that drains hands a job back from either to `queued`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from sidecar.errors import SidecarError
from sidecar.models.base import epoch, rfc3339
from sidecar.models.event import Event
from sidecar.models.job import TERMINAL, Carried, JobState, State
from sidecar.models.prompt import PromptUse
from sidecar.models.result import Result
from sidecar.ports.bus import StoredRequest

FOLLOWS: Mapping[State | None, frozenset[State]] = {
    None: frozenset({"queued", "running", *TERMINAL}),
    "queued": frozenset({"running", *TERMINAL}),
    "running": frozenset({"queued", "running", "waiting", *TERMINAL} - {"rejected"}),
    "waiting": frozenset({"queued", "running", "waiting", *TERMINAL} - {"rejected"}),
    **{state: frozenset() for state in TERMINAL},
}

NO_METADATA: Mapping[str, Any] = MappingProxyType({})


def _check(before: State | None, after: State) -> None:
    if after not in FOLLOWS[before]:
        raise SidecarError(f"a job cannot go from {before} to {after}")


def queued(stored: StoredRequest, *, job: str, now: float, metadata: Mapping[str, Any] = NO_METADATA) -> JobState:
    """The first document of a job that has to wait."""
    return JobState(
        job=job,
        tenant=stored.lane.tenant,
        job_class=stored.lane.job_class,
        state="queued",
        attempt=0,
        owner=None,
        model=None,
        request_seq=stored.seq,
        created=rfc3339(stored.stored_at),
        updated=rfc3339(now),
        metadata=dict(metadata),
    )


def forgotten(state: JobState, *, attempt: int, now: float) -> JobState:
    """The document of a job that nobody owns, after `attempt`, where the one it had is gone.

    What is known of lost owners, and of what they spent, stays.
    """
    return msgspec.structs.replace(
        state, state="queued", attempt=attempt, owner=None, result=None, result_n=None, updated=rfc3339(now)
    )


def refreshed(state: JobState, *, now: float) -> JobState:
    """The same document, written later."""
    return msgspec.structs.replace(state, updated=rfc3339(now))


def found_ended(state: JobState, event: Event) -> JobState:
    """The terminal document of a job whose result was said before its document was lost. Raises SidecarError."""
    if not isinstance(event.data, Result):
        raise SidecarError(f"job {state.job} has said no result")
    return msgspec.structs.replace(
        state,
        state=event.data.state,
        attempt=event.attempt,
        model=event.data.model or state.model,
        result=event.data,
        result_n=event.n,
        carried=None,
        updated=event.time,
    )


def claimed(state: JobState, *, owner: str, now: float, model: str | None = None) -> JobState:
    """The document of a new attempt by `owner`; of a live job, after `bereaved`."""
    _check(state.state, "running")
    time = rfc3339(now)
    return msgspec.structs.replace(
        state,
        state="running",
        attempt=state.attempt + 1,
        owner=owner,
        model=model or state.model,
        started=state.started or time,
        updated=time,
        held_since=None,
        held_s=state.held_s + _held_s(state, now),
    )


def _held_s(state: JobState, now: float) -> float:
    """For how long the job has been held by now since it was begun."""
    return 0.0 if state.held_since is None else max(0.0, now - epoch(state.held_since))


def restarted(state: JobState, *, now: float) -> JobState:
    """The document of the owner's own new attempt, after text had been streamed that no longer counts."""
    _check(state.state, "running")
    return msgspec.structs.replace(state, state="running", attempt=state.attempt + 1, updated=rfc3339(now))


def bereaved(state: JobState, *, counts: bool, carried: Carried | None) -> JobState:
    """What a live job's document says once its owner is known to be lost. `counts`: against the job."""
    return msgspec.structs.replace(
        state, silent=state.silent + 1, crashes=state.crashes + counts, carried=carried or state.carried
    )


def handed_back(
    state: JobState, *, now: float, carried: Carried | None = None, held_since: float | None = None
) -> JobState:
    """The document of a job that its owner gives up in good order, for another replica to take at once; or, where
    it has had nothing left to call since `held_since`, when something can be called.
    """
    _check(state.state, "queued")
    return msgspec.structs.replace(
        state,
        state="queued",
        owner=None,
        updated=rfc3339(now),
        carried=carried or state.carried,
        held_since=None if held_since is None else rfc3339(held_since),
    )


def bound(state: JobState, prompt: PromptUse | None) -> JobState:
    """The document of a job that is made of a stored template; the one that it names already stands."""
    if prompt is None or state.prompt is not None:
        return state
    return msgspec.structs.replace(state, prompt=prompt)


def renumbered(state: JobState) -> JobState:
    """The document of a job that will end without running again. Its last attempt has events of its own, and be
    it only `queued` under attempt 0: the result must not take the number of one of them.
    """
    return msgspec.structs.replace(state, attempt=state.attempt + 1)


def refusal(result: Result, last: State) -> Result:
    """The result of a job refused after state `last`: one that ran before fails, the others are rejected."""
    if result.state == "rejected" and "rejected" not in FOLLOWS[last]:
        return msgspec.structs.replace(result, state="failed")
    return result


def moved(state: JobState, to: State, *, now: float, model: str | None = None) -> JobState:
    """The document after a change between `running` and `waiting`."""
    _check(state.state, to)
    return msgspec.structs.replace(state, state=to, model=model or state.model, updated=rfc3339(now))


def ended(state: JobState, result: Result, *, result_n: int, now: float) -> JobState:
    """The terminal document: from here on the job is over."""
    _check(state.state, result.state)
    return msgspec.structs.replace(
        state,
        state=result.state,
        model=result.model or state.model,
        result=result,
        result_n=result_n,
        carried=None,
        updated=rfc3339(now),
    )
