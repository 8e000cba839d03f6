"""`./dev bench`: the figures, measured side by side in one run. See docs/benchmarks.md."""

import argparse
import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.figures import GROUPS, Bench
from benchmarks.measures import Figure
from benchmarks.processes import ROOT, NotMeasured
from benchmarks.stack import Base, base
from sidecar import __version__
from sidecar.errors import SidecarError

OUT = ROOT / "benchmarks" / "out"

SEPARATE = {
    "fairness": "benchmarks.fairness",
    "real-fairness": "benchmarks.real_fairness",
    "sizing": "benchmarks.sizing",
    "storage": "benchmarks.storage_cpu",
    "bedrock": "benchmarks.bedrock_cpu",
    "chaos": "benchmarks.chaos",
    "models": "benchmarks.models",
    "depth": "benchmarks.depth",
    "filters": "benchmarks.filters",
    "tools": "benchmarks.tools",
    "telemetry": "benchmarks.telemetry",
}
"""Benches of their own, with arguments of their own."""


def main(arguments: list[str]) -> int:
    """Exit code 0; 1 when a figure could not be measured, or with --strict when a bar was missed; 2 usage."""
    if arguments and arguments[0] in SEPARATE:
        return run_separate(arguments[0], arguments[1:])
    options = parser().parse_args(arguments)
    started, load_before = time.monotonic(), os.getloadavg()[0]
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    figures = measure(options)
    run = report.Run(
        started=began,
        elapsed_s=time.monotonic() - started,
        version=__version__,
        load_before=load_before,
        load_after=os.getloadavg()[0],
        peer=options.peer,
        machine=report.machine(),
    )
    print(report.table(figures))
    path = write(report.document(run, figures), options.out)
    note(f"{run.elapsed_s:.0f} s, load average {run.load_before:.1f} to {run.load_after:.1f}; {path}")
    return report.exit_code(figures, is_strict=options.strict)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure the figures, side by side in one run.",
        epilog=f"Benches of their own, with arguments of their own: {', '.join(SEPARATE)}.",
    )
    made.add_argument("groups", nargs="*", metavar="NAME", help=f"of {', '.join(GROUPS)}; default all")
    made.add_argument("--peer", choices=("litellm",), help="measure this peer too, from an environment of its own")
    made.add_argument("--repeats", type=int, default=3, help="of each measurement; the median counts (default 3)")
    made.add_argument("--quick", action="store_true", help="a tenth of the jobs: for a look, not for a figure")
    made.add_argument("--strict", action="store_true", help="exit code 1 when a bar was missed")
    made.add_argument("--out", type=Path, default=OUT, help="folder for the JSON (default benchmarks/out)")
    return made


def measure(options: argparse.Namespace) -> list[Figure]:
    """All lines of the table. What could not be measured is a line that says why."""
    chosen = options.groups or list(GROUPS)
    unknown = [name for name in chosen if name not in GROUPS]
    if unknown:
        parser().error(f"no figures named {', '.join(unknown)}: there are {', '.join(GROUPS)}")
    figures: list[Figure] = []
    with ExitStack() as processes:
        try:
            under = processes.enter_context(base())
            beside = peer_figures(options.peer, under)
        except (NotMeasured, SidecarError) as e:
            return [Figure(name="everything", unit="", group="", error=one_line(e))]
        bench = Bench(under, repeats=options.repeats, scale=0.1 if options.quick else 1.0, beside=beside)
        for name in chosen:
            note(f"measuring {name} ...")
            figures += attempt(name, GROUPS[name], bench)
    return figures


def peer_figures(name: str | None, under: Base) -> Mapping[str, Mapping[str, float]]:
    """A peer's figures by key. Raises NotMeasured when it cannot be set up."""
    if name is None:
        return {}
    from benchmarks import peer

    return peer.measure(under, note=note)


def attempt(name: str, group: Callable[[Bench], list[Figure]], bench: Bench) -> list[Figure]:
    try:
        return group(bench)
    except (NotMeasured, SidecarError) as e:
        note(f"{name}: {e}")
        return [Figure(name=name, unit="", group=name, error=one_line(e))]


def one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def run_separate(name: str, arguments: list[str]) -> int:
    """Run a bench that has a command line of its own."""
    sys.argv = [f"./dev bench {name}", *arguments]
    runpy.run_module(SEPARATE[name], run_name="__main__")
    return 0


def write(content: Mapping[str, object], folder: Path) -> Path:
    """The JSON document under the run's time, and again as `latest.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2) + "\n"
    path = folder / f"bench-{str(content['started']).replace(':', '')}.json"
    for target in (path, folder / "latest.json"):
        target.write_text(text, "utf-8")
    return path


def note(text: str) -> None:
    """Progress, on stderr; never data."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
