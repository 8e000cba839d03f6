"""Runs of the simulation: a seed is a list of moves and the luck in between."""

import asyncio
import random
from collections.abc import Sequence

from tests.support.simulation.world import MOVES, Move, Simulation, repeatable

STEPS = 20


def moves_of(seed: int, *, steps: int = STEPS) -> list[Move]:
    luck = random.Random(seed)
    names = luck.choices(list(MOVES), [weight for weight, _ in MOVES.values()], k=steps)
    return [(name, luck.randrange(2**32)) for name in names]


def run(seed: int, moves: Sequence[Move] | None = None) -> Simulation:
    """Make the moves of a seed, or these in their place. Raises AssertionError for a promise that was broken."""
    moves = moves_of(seed) if moves is None else moves
    with repeatable(seed), asyncio.Runner() as runner:
        return runner.run(_run(seed, moves))


async def _run(seed: int, moves: Sequence[Move]) -> Simulation:
    simulation = Simulation(seed)
    await simulation.begin(1 + seed % 3)
    try:
        for name, luck in moves:
            await MOVES[name][1](simulation, random.Random(luck))
            simulation.check_one_schedules()
        await simulation.settle()
        await simulation.check()
    finally:
        await simulation.bench.close()
    return simulation


def shortened(seed: int, moves: Sequence[Move], *, most_runs: int = 200) -> list[Move]:
    """Moves that break a promise too, as few as are easily found."""
    kept = list(moves)
    size = max(1, len(kept) // 2)
    for _ in range(most_runs):
        if not (found := _without_some(seed, kept, size)):
            if size == 1:
                break
            size //= 2
        else:
            kept = found
    return kept


def _without_some(seed: int, moves: list[Move], size: int) -> list[Move] | None:
    for at in range(0, len(moves), size):
        fewer = moves[:at] + moves[at + size :]
        try:
            run(seed, fewer)
        except Exception:  # noqa: BLE001 - whatever breaks is what is looked for
            return fewer
    return None
