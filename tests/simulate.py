"""`./dev simulate`: seeds of the simulation, as many as are wanted, side by side.

Prints how many go through in a minute, and of a seed that breaks a promise how to run it again.
"""

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

from tests.support.simulation.run import STEPS, moves_of, run, shortened

TOLD_EVERY_S = 10.0
MOST_BROKEN = 5


def try_seed(seed: int, steps: int) -> str | None:
    """What went wrong with a seed, None if nothing did."""
    logging.disable(logging.CRITICAL)
    try:
        run(seed, moves_of(seed, steps=steps))
    except Exception:  # noqa: BLE001 - whatever breaks is told
        return traceback.format_exc(limit=-3)
    return None


def explain(seed: int, steps: int) -> None:
    """Show what a seed does, and the fewest of its moves that break a promise too."""
    logging.disable(logging.CRITICAL)
    moves = moves_of(seed, steps=steps)
    problem = try_seed(seed, steps)
    if problem is None:
        print(f"seed {seed}: {len(moves)} moves, all promises hold")
        return
    print(problem)
    fewest = shortened(seed, moves)
    print(f"seed {seed}: {len(fewest)} of {len(moves)} moves are enough:")
    for name, luck in fewest:
        print(f"  {name} ({luck})")


def run_all(seeds: Sequence[int], *, jobs: int, steps: int) -> int:
    """Returns how many seeds broke a promise."""
    began = told = time.monotonic()
    broken = 0
    with ProcessPoolExecutor(jobs) as pool:
        running: dict[Future[str | None], int] = {pool.submit(try_seed, seed, steps): seed for seed in seeds}
        for done, future in enumerate(as_completed(running), 1):
            if (problem := future.result()) is not None:
                broken += 1
                seed = running[future]
                print(
                    f"seed {seed} breaks a promise; again: ./dev simulate --seed {seed} --steps {steps}\n{problem}"
                )
                if broken == MOST_BROKEN:
                    pool.shutdown(cancel_futures=True)
                    break
            now = time.monotonic()
            if now - told >= TOLD_EVERY_S or done == len(seeds):
                told = now
                print(f"{done} of {len(seeds)} seeds, {done * 60 / (now - began):.0f} a minute", flush=True)
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (default %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="moves of a seed (default %(default)s)")
    parser.add_argument("--seed", type=int, help="run one seed again, and look for the fewest moves that break it")
    given = parser.parse_args()
    if given.seed is not None:
        explain(given.seed, given.steps)
        return 0
    seeds = range(given.first, given.first + given.seeds)
    return 1 if run_all(seeds, jobs=given.jobs, steps=given.steps) else 0


if __name__ == "__main__":
    sys.exit(main())
