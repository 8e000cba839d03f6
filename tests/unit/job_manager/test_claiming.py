"""Whose job it is, by what its document says."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.job_manager.claiming import Claim, crash_loop, judge
from sidecar.models.job import TERMINAL, JobState, State

STATE = JobState(
    job="j1",
    tenant="acme",
    job_class="standard",
    state="running",
    attempt=1,
    owner="a",
    model=None,
    request_seq=7,
    created="2027-01-15T08:00:00.000Z",
    updated="2027-01-15T08:00:00.000Z",
)
ANY_STATE = st.sampled_from(["queued", "running", "waiting", *sorted(TERMINAL)])


def with_(**more: object) -> JobState:
    return msgspec.structs.replace(STATE, **more)


@given(ANY_STATE, st.integers(0, 5), st.integers(0, 5))
def test_another_request_with_the_id_is_dropped(state: State, attempt: int, granted: int) -> None:
    assert judge(with_(state=state, attempt=attempt), request_seq=8, granted_attempt=granted) is Claim.DROP


@given(st.sampled_from(sorted(TERMINAL)), st.integers(0, 5), st.integers(0, 5))
def test_what_is_over_is_finished_and_never_run(state: State, attempt: int, granted: int) -> None:
    assert judge(with_(state=state, attempt=attempt), request_seq=7, granted_attempt=granted) is Claim.FINISH


def test_an_attempt_that_the_grant_did_not_know_of_belongs_to_its_owner() -> None:
    assert judge(with_(attempt=2), request_seq=7, granted_attempt=1) is Claim.LEAVE
    assert judge(with_(attempt=2), request_seq=7, granted_attempt=2) is Claim.TAKE


def test_what_was_handed_back_is_anybodys() -> None:
    assert judge(with_(state="queued", attempt=3), request_seq=7, granted_attempt=1) is Claim.TAKE


@pytest.mark.parametrize(("crashes", "is_given_up"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_job_that_took_too_many_owners_down_is_given_up(crashes: int, is_given_up: bool) -> None:
    error = crash_loop(with_(crashes=crashes), max_attempts=3)
    assert (error is not None) is is_given_up
    if error is not None:
        assert error.code == "crash_loop"
        assert error.details["crashes"] == crashes
