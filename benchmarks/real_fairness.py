"""Shares on a real server with real processes, at the emulator's quotas: workloads and what undid them once.

    ./dev bench real-fairness                          all, with one and three replicas, about nine minutes
    ./dev bench real-fairness skewed full-queue --replicas 1

Everything is a process of its own on the loopback interface; each case has servers and replicas of its own.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from benchmarks import real_cases, real_workloads
from benchmarks.chaos_figures import Stage, stage
from benchmarks.measures import Figure
from benchmarks.processes import NotMeasured
from benchmarks.report import exit_code, table
from sidecar.errors import SidecarError


class Case(NamedTuple):
    """`replicas`: with how many it is run by default."""

    measure: Callable[[Stage, int], Awaitable[list[Figure]]]
    replicas: tuple[int, ...] = (1, 3)


CASES: Mapping[str, Case] = {
    "skewed": Case(real_workloads.skewed),
    "long-outputs": Case(real_workloads.long_outputs, (3,)),
    "agents": Case(real_workloads.agents, (3,)),
    "on-off": Case(real_workloads.on_off, (3,)),
    "classes": Case(real_workloads.classes, (3,)),
    "refused-tenth": Case(real_workloads.refused_tenth, (3,)),
    "newcomers": Case(real_cases.newcomers),
    "flood": Case(real_cases.flood),
    "moved": Case(real_cases.moved),
    "full-queue": Case(real_cases.full_queue),
    "stray-refusals": Case(real_cases.stray_refusals, (1,)),
    "restart": Case(real_cases.restart, (1,)),
    "cancels": Case(real_cases.cancels),
}


def main(arguments: list[str]) -> int:
    """Exit code 0; 1 when a figure could not be measured, or with --strict when a bar was missed; 2 usage."""
    options = parser().parse_args(arguments)
    began, load = time.monotonic(), os.getloadavg()[0]
    figures = asyncio.run(measure(options))
    print(table(figures))
    note(f"{time.monotonic() - began:.0f} s, load average {load:.1f} to {os.getloadavg()[0]:.1f}")
    return exit_code(figures, is_strict=options.strict)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./dev bench real-fairness", description=__doc__.partition("\n")[0])
    made.add_argument("cases", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; default all")
    made.add_argument("--replicas", default="", metavar="N,M", help="with how many replicas; default 1,3")
    made.add_argument("--cap", type=int, default=500, help="of the lane that is flooded (default 500)")
    made.add_argument("--published", type=int, default=3_000, help="requests of the flood (default 3000)")
    made.add_argument("--strict", action="store_true", help="exit code 1 when a bar was missed")
    return made


async def measure(options: argparse.Namespace) -> list[Figure]:
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser().error(f"no cases named {', '.join(unknown)}: there are {', '.join(CASES)}")
    real_cases.flood_size.cap, real_cases.flood_size.published = options.cap, options.published
    figures: list[Figure] = []
    for name in options.cases or CASES:
        wanted = tuple(int(n) for n in options.replicas.split(",")) if options.replicas else CASES[name].replicas
        for replicas in wanted:
            note(f"measuring {name} with {replicas} ...")
            figures += await attempt(name, replicas)
    return figures


async def attempt(name: str, replicas: int) -> list[Figure]:
    try:
        async with asyncio.timeout(real_cases.flood_size.limit_s), stage(jobs=0, repeats=1, minutes=0) as under:
            return await CASES[name].measure(under, replicas)
    except (NotMeasured, SidecarError, TimeoutError, AssertionError) as e:
        error = str(e).partition("\n")[0] or type(e).__name__
        return [Figure(name=f"{name}, {replicas}", unit="", group=name, error=error)]


def note(text: str) -> None:
    """Progress, on stderr; never data."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
