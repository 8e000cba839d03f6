"""Replicas, servers and jobs under fire: what is lost (nothing may be), and how long it takes to go on.

    ./dev bench chaos                     all but the soak, about six minutes
    ./dev bench chaos kills --jobs 200    one of them
    ./dev bench chaos soak --minutes 30   half load with restarts: memory, tasks, connections

Everything is a process of its own on the loopback interface, and is killed by its pid.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping

from benchmarks.chaos_figures import GROUPS, Stage, stage
from benchmarks.chaos_soak import soak
from benchmarks.measures import Figure
from benchmarks.processes import NotMeasured
from benchmarks.report import exit_code, table
from sidecar.errors import SidecarError


def main(arguments: list[str]) -> int:
    """Exit code 0; 1 when a figure could not be measured, or with --strict when a bar was missed; 2 usage."""
    options = parser().parse_args(arguments)
    figures = asyncio.run(measure(options))
    print(table(figures))
    return exit_code(figures, is_strict=options.strict)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./dev bench chaos", description=__doc__.partition("\n")[0])
    made.add_argument(
        "groups", nargs="*", metavar="NAME", help=f"of {', '.join(GROUPS)}, soak; default all but soak"
    )
    made.add_argument("--jobs", type=int, default=1000, help="of the random kills (default 1000)")
    made.add_argument("--repeats", type=int, default=3, help="of each time that is measured (default 3)")
    made.add_argument("--minutes", type=float, default=30, help="of the soak (default 30)")
    made.add_argument("--strict", action="store_true", help="exit code 1 when a bar was missed")
    return made


async def measure(options: argparse.Namespace) -> list[Figure]:
    chosen = options.groups or list(GROUPS)
    known: Mapping[str, Callable[[Stage], Awaitable[list[Figure]]]] = {**GROUPS, "soak": soak}
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser().error(f"no figures named {', '.join(unknown)}: there are {', '.join(known)}")
    figures: list[Figure] = []
    for name in chosen:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            async with stage(jobs=options.jobs, repeats=options.repeats, minutes=options.minutes) as under:
                figures += await known[name](under)
        except (NotMeasured, SidecarError, TimeoutError, AssertionError) as e:
            error = str(e).partition("\n")[0] or type(e).__name__
            figures.append(Figure(name=name, unit="", group=name, error=error))
    return figures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
