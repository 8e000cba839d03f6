"""What the index knows of each lane, held against what the stream says."""

from sidecar.ports.bus import Doorbell, Lane, LaneCounts
from sidecar.request_handler.lanes import Index, LaneIndex

A, B = Lane("a", "standard"), Lane("b", "standard")


def bell(seq: int, lane: Lane = A) -> Doorbell:
    return Doorbell(seq, lane, 10, None)


def test_a_doorbell_says_that_a_lane_has_more_until_it_was_read() -> None:
    index = Index()
    lane = index.ring(bell(5), most=10)
    assert lane is not None
    assert lane.has_more
    assert index.highest_seq == 5
    assert index.track(lane, 5)
    assert index.ring(bell(5), most=10) is None
    assert index.ring(bell(4), most=10) is None
    assert index.ring(bell(6), most=10) is lane


def test_a_request_is_in_memory_once() -> None:
    index = Index()
    lane = index.lane(A)
    assert index.track(lane, 3)
    assert not index.track(lane, 3)
    assert lane.tracked == 1
    index.forget(3)
    index.forget(3)
    assert lane.tracked == 0
    assert not index.is_tracked(3)


def test_a_lane_that_holds_more_than_is_known_is_read_from_its_start() -> None:
    index = Index()
    lane = index.lane(A)
    index.track(lane, 3)
    assert list(index.reconcile(LaneCounts({A: 1}, 3))) == []
    assert list(index.reconcile(LaneCounts({A: 2}, 4))) == [lane]
    assert lane.read_seq == 0
    assert lane.has_more
    assert index.highest_seq == 4


def test_a_lane_that_is_being_read_is_left_alone() -> None:
    index = Index()
    lane = index.lane(A)
    lane.is_filling = True
    assert list(index.reconcile(LaneCounts({A: 5}, 5))) == []


def test_a_lane_known_to_have_more_goes_on_where_it_was() -> None:
    index = Index()
    lane = index.lane(A)
    index.track(lane, 3)
    lane.has_more = True
    assert list(index.reconcile(LaneCounts({A: 5}, 9))) == [lane]
    assert lane.read_seq == 3


def test_idle_lanes_are_forgotten_and_busy_ones_are_not() -> None:
    index = Index()
    index.lane(A)
    index.track(index.lane(B), 1)
    list(index.reconcile(LaneCounts({}, 9)))
    assert list(index.lanes) == [B]
    index.forget(1)
    list(index.reconcile(LaneCounts({}, 9)))
    assert index.lanes == {}


def judge(index: Index, lane: LaneIndex, seq: int, *, most: int) -> bool:
    """Judge one request as the reader does. Whether it was let in."""
    if lane.kept < most:
        lane.let_in(seq)
        return True
    index.turn_away(lane, seq)
    index.forget(seq)
    return False


def test_what_no_doorbell_told_of_is_refused_like_the_rest() -> None:
    index = Index()
    for seq in range(1, 21):
        index.ring(bell(seq), most=10)
    lane = index.lane(A)
    # Thirty more are stored, and their doorbells are lost.
    assert [seq for seq in range(11, 51) if judge(index, lane, seq, most=10)] == []
    assert lane.kept == lane.stored == 10


def test_a_place_that_was_left_is_given_once_also_to_what_no_doorbell_told_of() -> None:
    index = Index()
    for seq in range(1, 12):
        index.ring(bell(seq), most=10)
    lane = index.lane(A)
    index.track(lane, 1)
    index.forget(1)
    assert [seq for seq in range(11, 31) if judge(index, lane, seq, most=10)] == [11]
    index.track(lane, 2)
    index.forget(2)
    assert [seq for seq in range(31, 51) if judge(index, lane, seq, most=10)] == [31]
    assert lane.kept == lane.stored == 10


def test_a_doorbell_that_comes_after_the_judgement_counts_nothing_twice() -> None:
    index = Index()
    for seq in range(1, 12):
        index.ring(bell(seq), most=10)
    lane = index.lane(A)
    for seq in range(11, 31):
        judge(index, lane, seq, most=10)
    assert [index.ring(bell(seq), most=10) for seq in range(12, 31)] == [None] * 19
    assert lane.kept == lane.stored == 10
    lane.lift_edge()
    index.ring(bell(31), most=10)
    assert (lane.edge, lane.beyond, lane.kept) == (30, 1, 10)
