"""The cluster's decisions, pure: who may believe in the lease, who is there, who gets the next job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cluster import messages
from sidecar.cluster.grants import Workers
from sidecar.cluster.lease import CALM_TRY_S, EAGER_TRY_S, GUARD_S, RENEW_S, TTL_S, Lease
from sidecar.cluster.membership import SILENT_S, Members
from sidecar.models.replica import GrantOffer, Heartbeat, HeldJob, Rollcall


def held_lease(*, sent: float = 10.0, answered: float = 10.1, revision: int = 7) -> Lease:
    lease = Lease()
    lease.sent(sent)
    assert lease.granted(revision, answered)
    return lease


def test_a_lease_counts_from_the_send_of_what_was_confirmed() -> None:
    lease = held_lease(sent=10.0, answered=12.0)
    assert lease.is_held(10.0 + TTL_S - GUARD_S - 0.01)
    assert not lease.is_held(10.0 + TTL_S - GUARD_S)


def test_an_answer_after_the_end_of_what_it_confirms_is_not_believed() -> None:
    lease = Lease()
    lease.sent(10.0)
    assert not lease.granted(7, 10.0 + TTL_S)
    assert lease.term == 0
    assert lease.step() == "acquire"


def test_renewals_keep_the_term() -> None:
    lease = held_lease(sent=10.0)
    assert lease.step() == "renew"
    lease.sent(11.0)
    assert not lease.granted(8, 11.1)
    assert lease.term == 7
    assert lease.revision == 8
    assert lease.is_held(15.0)


def test_without_an_answer_the_lease_holds_to_its_end_and_is_asked_for_anew() -> None:
    lease = held_lease(sent=10.0)
    lease.sent(11.0)
    lease.unanswered()
    assert lease.step() == "acquire"
    assert lease.is_held(14.0)
    assert lease.wait_s(12.0, is_leader_heard=False) == EAGER_TRY_S
    lease.sent(13.0)
    assert not lease.granted(9, 13.1), "the term goes on: it was never lost"
    assert lease.term == 7
    assert lease.is_held(17.0)


def test_a_fence_ends_the_term_once() -> None:
    lease = held_lease(sent=10.0)
    assert not lease.fence(14.0)
    assert lease.fence(14.5)
    assert not lease.fence(14.6)
    assert lease.term == 0
    lease.sent(14.7)
    assert lease.granted(9, 14.8)
    assert lease.term == 9


def test_a_refusal_ends_the_term() -> None:
    lease = held_lease()
    lease.refused()
    assert (lease.term, lease.revision, lease.step()) == (0, None, "acquire")
    assert lease.wait_s(11.0, is_leader_heard=True) == CALM_TRY_S


def test_a_lease_that_is_not_wanted_any_more_is_not_believed_but_given_back() -> None:
    lease = held_lease()
    assert lease.give_up() == 7
    lease.sent(11.0)
    assert not lease.granted(9, 11.1)
    assert lease.give_up() == 9
    assert lease.give_up() is None


def test_renewals_are_a_second_apart() -> None:
    lease = held_lease(sent=10.0, answered=10.4)
    assert lease.wait_s(10.4, is_leader_heard=False) == pytest.approx(RENEW_S - 0.4)


class Store:
    """A lease store by its promise: a lease lives `TTL_S` from when it was stored."""

    def __init__(self) -> None:
        self.owner: int | None = None
        self.until = 0.0
        self.revision = 0

    def ask(self, who: int, now: float) -> int | None:
        if self.owner not in (None, who) and now < self.until:
            return None
        self.revision += 1
        self.owner, self.until = who, now + TTL_S
        return self.revision


steps = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.floats(0.0, 3.0),  # the way there
        st.floats(0.0, 3.0),  # the way back
        st.sampled_from(["answered", "answer lost", "request lost"]),
        st.floats(0.0, 2.0),  # until the next step
    ),
    max_size=40,
)


@given(steps)
def test_never_do_two_replicas_believe_in_the_lease(plan: list[tuple[int, float, float, str, float]]) -> None:
    """Requests of one replica follow each other; their answers may be late or lost. Time goes on for all."""
    leases = [Lease() for _ in range(3)]
    store = Store()
    now = 0.0
    terms: list[int] = []
    for who, there_s, back_s, fate, pause_s in plan:
        lease = leases[who]
        lease.fence(now)
        lease.sent(now)
        now += there_s
        if fate != "request lost":
            revision = store.ask(who, now)
            now += back_s
            lease.fence(now)
            if fate == "answer lost":
                lease.unanswered()
            elif revision is None:
                lease.refused()
            elif lease.granted(revision, now):
                terms.append(lease.term)
        else:
            lease.unanswered()
        for _ in range(4):
            now += pause_s / 4
            assert sum(lease.is_held(now) for lease in leases) <= 1
    assert terms == sorted(set(terms)), "terms only go up"


def beat(n: int = 1, *, member: str = "a-1", jobs: tuple[HeldJob, ...] = (), **more: object) -> Heartbeat:
    fields: dict[str, object] = {"member": member, "name": "a", "n": n, "slots": 4, "jobs": jobs, **more}
    return Heartbeat(**fields)  # type: ignore[arg-type]


def held(seq: int) -> HeldJob:
    return HeldJob(
        seq=seq,
        tenant="acme",
        job_class="batch",
        job=f"j{seq}",
        pool="p",
        pools=("p",),
        input_tokens=1,
        max_tokens=1,
        stored_at=0.0,
    )


def test_who_is_heard_is_there_until_it_is_silent_for_too_long() -> None:
    members = Members()
    assert members.hear(beat(), 10.0).is_new
    assert members.has_name("a")
    members.sweep(10.0, keep="me")
    silent: list[str] = []
    for tenth in range(1, 70):
        silent += members.sweep(10.0 + tenth / 10, keep="me")
        if silent:
            assert tenth / 10 == pytest.approx(SILENT_S)
            break
    assert silent == ["a-1"]
    assert not members.has_name("a")


def test_who_was_silent_and_is_heard_again_is_there_again() -> None:
    members = Members()
    members.hear(beat(1), 0.0)
    for second in range(7):
        members.sweep(float(second), keep="me")
    assert members.get("a-1") is None
    assert members.hear(beat(9), 8.0).is_new


def test_silence_counts_only_while_this_process_could_hear() -> None:
    members = Members()
    members.hear(beat(), 0.0)
    members.sweep(0.5, keep="me")
    assert members.sweep(30.0, keep="me") == []
    assert members.sweep(31.0, keep="me") == []
    for second in range(32, 40):
        members.sweep(float(second), keep="me")
    assert members.get("a-1") is None


def test_an_excuse_gives_time_but_is_no_sign_of_life() -> None:
    members = Members()
    members.hear(beat(), 0.0)
    members.sweep(0.5, keep="me")
    members.excuse(10.0)
    members.sweep(10.0, keep="me")
    member = members.get("a-1")
    assert member is not None
    assert member.heard_at == 0.0
    for second in range(11, 20):
        assert members.sweep(float(second), keep="me") == []
    assert members.sweep(20.0, keep="me") == ["a-1"]


def test_old_heartbeats_change_nothing() -> None:
    members = Members()
    members.hear(beat(2, jobs=(held(1),)), 0.0)
    assert members.hear(beat(1, jobs=(held(2),)), 0.1).member is None
    assert members.hear(beat(2, jobs=(held(2),)), 0.1).member is None
    member = members.get("a-1")
    assert member is not None
    assert set(member.jobs) == {1}


def test_a_process_that_left_does_not_come_back_by_a_late_heartbeat() -> None:
    members = Members()
    members.hear(beat(5), 0.0)
    assert members.remove("a-1") is not None
    assert not members.hear(beat(4), 0.1).is_new
    assert members.get("a-1") is None


def test_a_heartbeat_in_parts_counts_when_all_have_come() -> None:
    members = Members()
    first = members.hear(beat(1, jobs=(held(1),), part=1, parts=2), 0.0)
    assert first.member is None
    second = members.hear(beat(1, jobs=(held(2),), part=2, parts=2), 0.0)
    assert second.member is not None
    assert set(second.member.jobs) == {1, 2}
    lost = members.hear(beat(2, jobs=(held(3),), part=2, parts=2), 1.0)
    assert lost.member is None
    whole = members.hear(beat(3, jobs=(held(4),)), 2.0)
    assert whole.member is not None
    assert set(whole.member.jobs) == {4}


def test_the_leader_is_the_one_with_the_highest_term_heard_lately() -> None:
    members = Members()
    members.hear(beat(1, member="a-1", term=5), 0.0)
    members.hear(beat(1, member="b-1", term=9), 0.0)
    leader = members.leader(1.0)
    assert leader is not None
    assert leader.beat.member == "b-1"
    assert members.leader(10.0) is None


def workers(**slots: int) -> Workers:
    made = Workers("own")
    for name, count in slots.items():
        made.update(name, slots=count, takes_jobs=True)
    return made


def test_the_least_loaded_worker_gets_the_job_and_this_one_where_it_is_equal() -> None:
    crew = workers(own=4, other=4)
    order = []
    for _ in range(4):
        chosen = crew.choose()
        assert chosen is not None
        order.append(chosen)
        crew.took(chosen)
    assert order == ["own", "other", "own", "other"]


def test_load_is_measured_in_parts_of_a_workers_slots() -> None:
    crew = workers(own=1, large=9)
    for _ in range(10):
        crew.took(crew.choose() or "")
    assert crew.choose() == "own"
    crew.left("large")
    assert crew.choose() == "large"


def test_who_drains_or_refused_gets_nothing() -> None:
    crew = workers(own=4, other=4)
    crew.update("own", slots=4, takes_jobs=False)
    assert crew.choose() == "other"
    assert crew.slots == 4
    crew.shun("other")
    assert crew.choose() is None
    crew.update("other", slots=4, takes_jobs=True)
    assert crew.choose() == "other"


def test_jobs_of_who_drains_take_no_slots_from_the_others() -> None:
    crew = workers(own=4, other=4)
    assert not crew.took("own")
    assert not crew.took("own")
    crew.update("own", slots=4, takes_jobs=False)
    assert crew.slots == 4 + 2
    assert crew.left("own")
    assert crew.slots == 4 + 1


def test_alone_nobody_else_is_chosen() -> None:
    crew = workers(own=2)
    for _ in range(5):
        crew.took("own")
    assert crew.choose() == "own"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["took", "left", "shun", "beat", "drop"]))))
def test_no_worker_ever_holds_less_than_nothing(plan: list[tuple[str, str]]) -> None:
    crew = workers(own=2)
    for name, what in plan:
        if what == "beat":
            crew.update(name, slots=2, takes_jobs=True)
        else:
            getattr(crew, what)(name)
        assert crew.choose() is not None
    crew.forget_jobs()
    assert crew.choose() in ("own", "a", "b", "c")


def test_messages_survive_their_encoding() -> None:
    for message in (beat(3, jobs=(held(1), held(2))), Rollcall(member="a-1", term=4)):
        assert messages.decode(messages.encode(message), type(message)) == message


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"member": 1}', b"\xff", b'{"term": "x"}'])
def test_what_is_no_message_is_none(payload: bytes) -> None:
    assert messages.decode(payload, GrantOffer) is None
    assert messages.decode(payload, Heartbeat) is None
