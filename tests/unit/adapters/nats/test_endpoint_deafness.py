"""Who floods is dropped by the bytes of its subject for a moment, and counted."""

from collections import Counter

import pytest

from sidecar.adapters.nats.fair.deaf import DEAF_S, LONGEST_DEAF_S, MOST_DEAF, Deaf, dropper
from tests.support.virtual_time import VirtualClock


async def test_a_party_is_dropped_for_a_moment_and_told_of_at_its_end() -> None:
    clock = VirtualClock()
    ended: list[tuple[str, Counter[str]]] = []
    deaf = Deaf[str](lambda party, dropped: ended.append((party, dropped)))
    gets, models = (dropper(deaf.dropped, kind, position=3) for kind in ("get", "models"))
    assert not gets(b"llm.v1.get.globex.j")
    deaf.begin("globex")
    deaf.begin("globex")
    assert [gets(b"llm.v1.get.globex.j"), gets(b"llm.v1.get.globex.k"), models(b"llm.v1.models.globex")] == [
        True
    ] * 3
    # Others, and what only looks like it.
    for subject in (b"llm.v1.get.acme.globex", b"llm.v1.get.globexx.j", b"llm.v1.get", b"", b"a.b.c.\xff.globex"):
        assert not gets(subject)
    await clock.advance(DEAF_S + 0.001)
    assert ended == [("globex", Counter(get=2, models=1))]
    assert not gets(b"llm.v1.get.globex.j")


async def test_who_goes_on_is_dropped_for_longer_and_who_stops_is_forgiven() -> None:
    clock = VirtualClock()
    deaf = Deaf[str](lambda party, dropped: None)
    lengths = []
    for _ in range(8):
        deaf.begin("globex")
        begun = clock.monotonic()
        while deaf.dropped:
            await clock.advance(0.05)
        lengths.append(clock.monotonic() - begun)
    assert lengths == pytest.approx([min(DEAF_S * 2**i, LONGEST_DEAF_S) for i in range(8)], abs=0.051)
    await clock.advance(LONGEST_DEAF_S + 0.01)
    deaf.begin("globex")
    await clock.advance(DEAF_S + 0.001)
    assert not deaf.dropped


async def test_no_more_than_so_many_names_are_remembered() -> None:
    clock = VirtualClock()
    ended: list[str] = []
    deaf = Deaf[str](lambda party, dropped: ended.append(party))
    for i in range(3 * MOST_DEAF):
        deaf.begin(f"t{i}")
    assert len(deaf.dropped) == MOST_DEAF
    await clock.advance(1.0)
    assert len(ended) == MOST_DEAF
    assert not deaf.dropped
