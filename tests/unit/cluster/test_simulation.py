"""Whatever happens to replicas, messages, the server, clocks and documents: what clients were promised holds.

`./dev simulate` runs more seeds of the same.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.adapters.nats.client.mux import Mux
from tests.support.jetstream.rules import EXPECTED
from tests.support.simulation.run import moves_of, run, shortened
from tests.support.simulation.world import MOVES

SEEDS = 100
AT_ONCE = 10
MOVE = st.tuples(st.sampled_from(sorted(MOVES)), st.integers(0, 2**32 - 1))


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_the_promises_hold_whatever_happens(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        try:
            run(seed)
        except Exception as e:
            e.add_note(f"seed {seed}; again: ./dev simulate --seed {seed}")
            raise


@given(seed=st.integers(0, 2**32), moves=st.lists(MOVE, max_size=30))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_the_promises_hold_in_any_order_of_events(seed: int, moves: list[tuple[str, int]]) -> None:
    run(seed, moves)


def test_a_seed_goes_the_same_way_each_time() -> None:
    first, second = run(3), run(3)
    assert [o for o in first.bench.bus.operations if o.name != "core.publish"] == [
        o for o in second.bench.bus.operations if o.name != "core.publish"
    ]
    assert first.bench.clock.monotonic() == second.bench.clock.monotonic()


def unfenced(store: Callable[..., Any]) -> Callable[..., Any]:
    """A mux that does not compare before it writes."""

    async def stores(self: Mux, subject: str, payload: bytes, **more: Any) -> Any:
        headers = dict(more.pop("headers", None) or {})
        headers = {name: value for name, value in headers.items() if not name.startswith(EXPECTED)}
        return await store(self, subject, payload, headers=headers, **more)

    return stores


def test_a_product_without_fences_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation is worth its time only if it notices."""
    monkeypatch.setattr(Mux, "store", unfenced(Mux.store))
    broken = None
    for seed in range(SEEDS):
        try:
            run(seed)
        except Exception:  # noqa: BLE001 - whatever breaks first
            broken = seed
            break
    assert broken is not None
    assert len(shortened(broken, moves_of(broken), most_runs=3)) < len(moves_of(broken))
