"""The index of stored requests: held against a plain list of them, and against its bound in bytes."""

import random
import sys
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.ports.bus import Lane
from sidecar.request_handler import job_index, lane_order
from sidecar.request_handler.coverage import Coverage
from sidecar.request_handler.job_index import JobIndex, fingerprint

LANES = [Lane(tenant, job_class) for tenant in ("acme", "globex") for job_class in ("standard", "batch")]
NOW = 1_800_000_000.0


class Plain:
    """What an index says, from a list of (seq, lane, job, deadline)."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[Lane, str]] = {}
        self.deadlines: dict[int, float] = {}

    def of(self, lane: Lane) -> list[int]:
        return sorted(seq for seq, (found, _) in self.entries.items() if found == lane)

    def find(self, tenant: str, job: str) -> list[int]:
        return sorted(seq for seq, (lane, name) in self.entries.items() if (lane.tenant, name) == (tenant, job))


@pytest.fixture(params=["hashes as they are", "few hashes"])
def _hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "few hashes":
        monkeypatch.setattr(job_index, "_HASH", 0x1F03)
    monkeypatch.setattr(lane_order, "CHUNK", 4)


@pytest.mark.usefixtures("_hashes")
@pytest.mark.parametrize("seed", range(6))
def test_an_index_says_what_a_list_says(seed: int) -> None:
    dice, index, plain, now = random.Random(seed), JobIndex(now=NOW), Plain(), NOW
    for step in range(1_500):
        if dice.random() < (0.7 if step < 900 else 0.3):
            seq, lane, job = dice.randrange(1, 4_000), dice.choice(LANES), f"j{dice.randrange(600)}"
            deadline = now + dice.uniform(-5, 400) if dice.random() < 0.4 else None
            is_new = seq not in plain.entries
            if is_new:
                assert index.add(seq, lane, job, deadline=deadline)
                plain.entries[seq] = (lane, job)
                if deadline is not None:
                    plain.deadlines[seq] = deadline
            else:
                found_lane, found_job = plain.entries[seq]
                assert not index.add(seq, found_lane, found_job)
        elif plain.entries:
            seq = dice.choice(list(plain.entries))
            lane, job = plain.entries.pop(seq)
            plain.deadlines.pop(seq, None)
            assert index.drop(seq, lane) if dice.random() < 0.3 else index.discard(seq, lane, job)
        if dice.random() < 0.05:
            now += dice.uniform(0, 40)
            due = {found.seq for found in index.take_due(now, most=10_000)}
            passed = {seq for seq, deadline in plain.deadlines.items() if deadline <= now - 0.3}
            assert passed <= due
            assert all(plain.deadlines[seq] <= now for seq in due)
            for seq in due:
                del plain.deadlines[seq]
        if step % 50 == 0:
            compare(index, plain, dice)
    compare(index, plain, dice)


def compare(index: JobIndex, plain: Plain, dice: random.Random) -> None:
    assert len(index) == len(plain.entries)
    for lane in LANES:
        seqs = plain.of(lane)
        assert index.length(lane) == len(seqs)
        assert index.last(lane) == (seqs[-1] if seqs else 0)
        seq = dice.randrange(4_100)
        assert index.rank(seq, lane) == sum(found < seq for found in seqs)
        assert list(index.before(seq, lane)) == [found for found in reversed(seqs) if found < seq]
    for _ in range(20):
        tenant, job = dice.choice(("acme", "globex")), f"j{dice.randrange(600)}"
        found = [entry.seq for entry in index.find(tenant, job)]
        # Candidates: whoever asks holds each against the stored header.
        assert [seq for seq in found if plain.entries[seq][1] == job] == plain.find(tenant, job)


def test_an_entry_takes_less_than_48_bytes() -> None:
    index, count = JobIndex(now=NOW), 120_000
    for seq in range(1, count + 1):
        index.add(seq, Lane(f"t{seq % 100}", "batch"), f"job-{seq}", deadline=NOW + 60 + seq % 5_000)
    assert size_of(index) / count <= 48


def size_of(thing: Any, seen: set[int] | None = None) -> int:
    """Bytes of all arrays and containers below a value."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, int | float | str | type(None)):
        return 0
    seen.add(id(thing))
    total = sys.getsizeof(thing)
    if isinstance(thing, array):
        return total
    if isinstance(thing, dict):
        return total + sum(size_of(part, seen) for pair in thing.items() for part in pair)
    if isinstance(thing, list | tuple):
        return total + sum(size_of(part, seen) for part in thing)
    names = [*getattr(type(thing), "__slots__", ()), *getattr(thing, "__dict__", ())]
    return total + sum(size_of(getattr(thing, name), seen) for name in names)


def test_a_backlog_that_was_worked_off_leaves_nothing_behind() -> None:
    index, empty = JobIndex(now=NOW), size_of(JobIndex(now=NOW))
    for seq in range(1, 3_000):
        index.add(seq, LANES[0], f"j{seq}", deadline=NOW + 3_600)
    for seq in range(1, 3_000):
        index.discard(seq, LANES[0], f"j{seq}")
    assert size_of(index) <= empty
    assert index.take_due(NOW + 7_200, most=10) == []


def test_deadlines_of_jobs_that_have_gone_do_not_pile_up() -> None:
    index = JobIndex(now=NOW)
    index.add(1, LANES[0], "stays")
    for seq in range(2, 20_000):
        index.add(seq, LANES[0], f"j{seq}", deadline=NOW + 86_400)
        index.discard(seq, LANES[0], f"j{seq}")
    assert size_of(index) < 60_000


def test_what_was_read_is_found_by_its_metadata() -> None:
    index = JobIndex(now=NOW)
    for seq in (1, 2, 3):
        index.add(seq, LANES[0], f"j{seq}")
    index.note_read(1, LANES[0], "j1", metadata={"ticket": 42, "urgent": True})
    index.note_read(2, LANES[0], "j2", metadata={}, deadline=NOW + 5)
    wanted = fingerprint({"ticket": "42"})
    assert [index.may_fit(seq, LANES[0], wanted) for seq in (1, 2, 3)] == [True, False, False]
    assert index.unread(LANES[0]) == 1
    assert [due.seq for due in index.take_due(NOW + 6, most=10)] == [2]
    index.discard(3, LANES[0], "j3")
    assert index.unread(LANES[0]) == 0


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(0, 70))
@settings(max_examples=150, deadline=None)
def test_what_was_not_heard_is_a_hole(heard: list[int], last: int) -> None:
    coverage = Coverage()
    for seq in heard:
        coverage.hear(seq)
    coverage.expect(last)
    known = set(heard)
    top = max([*heard, last], default=0)
    missing = [seq for seq in range(1, top + 1) if seq not in known]
    assert coverage.is_complete is not bool(missing)
    assert coverage.highest == top
    for seq in range(1, top + 2):
        assert coverage.knows(seq) is (seq <= top and all(below in known for below in range(1, seq + 1)))
    while (hole := coverage.next_hole()) is not None:
        assert hole[0] == missing[0]
        assert all(seq in missing for seq in range(hole[0], hole[1] + 1))
        missing = [seq for seq in missing if seq > hole[1]]
        coverage.close(*hole)
    assert not missing
