"""The states of a job: what follows what, and what each document says."""

import re

import pytest

from sidecar.errors import SidecarError
from sidecar.job_manager import transitions
from sidecar.job_manager.transitions import FOLLOWS
from sidecar.models.job import TERMINAL, JobState, State
from sidecar.models.result import Result
from sidecar.ports.bus import Lane, StoredRequest

STORED = StoredRequest(7, Lane("acme", "batch"), b"{}", {}, 1_800_000_000.0)


def fresh() -> JobState:
    return transitions.queued(STORED, job="j1", now=1_800_000_001.0)


def test_the_first_document_knows_its_request() -> None:
    state = fresh()
    assert (state.job, state.tenant, state.job_class, state.request_seq) == ("j1", "acme", "batch", 7)
    assert (state.state, state.attempt, state.owner, state.crashes) == ("queued", 0, None, 0)
    assert state.created == "2027-01-15T08:00:00.000Z"


def test_nothing_follows_the_end() -> None:
    for state in TERMINAL:
        assert FOLLOWS[state] == frozenset()
    done = transitions.ended(fresh(), Result(state="cancelled"), result_n=1, now=0)
    for write in (transitions.handed_back, transitions.restarted):
        with pytest.raises(SidecarError):
            write(done, now=0)
    with pytest.raises(SidecarError):
        transitions.claimed(done, owner="b", now=0)


def test_the_diagram_in_the_docstring_is_the_table() -> None:
    text = transitions.__doc__ or ""
    named = set(re.findall(r"queued|running|waiting|succeeded|failed|cancelled|expired|rejected", text))
    assert named == {state for state in FOLLOWS if state is not None}
    for after in ("running", *TERMINAL):
        assert after in FOLLOWS["queued"]
    assert {"running", "waiting"} <= FOLLOWS["running"] & FOLLOWS["waiting"]
    assert "rejected" not in FOLLOWS["running"] | FOLLOWS["waiting"]


def test_a_claim_counts_the_attempt_and_a_lost_owner_is_counted_before_it() -> None:
    first = transitions.claimed(fresh(), owner="a", now=1_800_000_002.0)
    assert (first.state, first.attempt, first.owner, first.crashes) == ("running", 1, "a", 0)
    left = transitions.bereaved(first, counts=True, carried=None)
    second = transitions.claimed(left, owner="b", now=1_800_000_009.0)
    assert (second.attempt, second.owner, second.crashes, second.silent) == (2, "b", 1, 1)
    third = transitions.claimed(transitions.bereaved(second, counts=False, carried=None), owner="c", now=0)
    assert (third.crashes, third.silent) == (1, 2)
    assert second.started == first.started == "2027-01-15T08:00:02.000Z"


def test_what_was_handed_back_is_no_crash() -> None:
    first = transitions.claimed(fresh(), owner="a", now=0)
    back = transitions.handed_back(first, now=0)
    assert (back.state, back.owner, back.attempt) == ("queued", None, 1)
    again = transitions.claimed(back, owner="b", now=0)
    assert (again.attempt, again.crashes) == (2, 0)


def test_a_job_that_ends_without_running_gets_a_number_no_event_has() -> None:
    assert transitions.renumbered(fresh()).attempt == 1
    back = transitions.handed_back(transitions.claimed(fresh(), owner="a", now=0), now=0)
    assert transitions.renumbered(back).attempt == 2


@pytest.mark.parametrize(
    ("last", "expected"), [("queued", "rejected"), ("running", "failed"), ("waiting", "failed")]
)
def test_a_job_that_ran_before_fails_where_another_is_rejected(last: State, expected: str) -> None:
    assert transitions.refusal(Result(state="rejected"), last).state == expected
    assert transitions.refusal(Result(state="cancelled"), last).state == "cancelled"
