"""`./dev check`: lint, format, types, imports, generated files, sizes, names, licences. Runs all, then sums up."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts import licences, schema
from scripts.sizes import measure, namesakes

ROOT = Path(__file__).resolve().parent.parent
_SIZED = ("sidecar", "scripts", "examples", "benchmarks")
# What applications import, and a program of its own.
_NAMED_APART = ("client/", "emulator/")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check went. `output` is shown only when it failed; `note` always."""

    name: str
    is_ok: bool
    output: str = ""
    note: str = ""
    elapsed_s: float = 0.0


def _tool(name: str, *command: str) -> Callable[[], Outcome]:
    def run() -> Outcome:
        started = time.monotonic()
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        return Outcome(
            name, done.returncode == 0, (done.stdout + done.stderr).strip(), "", time.monotonic() - started
        )

    return run


def _drift() -> Outcome:
    started = time.monotonic()
    drifts = schema.check(ROOT)
    output = "\n".join([*drifts, "./dev schema makes them anew"]) if drifts else ""
    return Outcome("schema and documentation drift", not drifts, output, "", time.monotonic() - started)


def _sizes() -> Outcome:
    started = time.monotonic()
    found = measure(ROOT, _SIZED)
    note = f"{len(found.notes)} over a soft limit (--sizes lists them)" if found.notes else ""
    return Outcome("sizes", not found.errors, "\n".join(found.errors), note, time.monotonic() - started)


def _names() -> Outcome:
    started = time.monotonic()
    found = namesakes(ROOT, "sidecar", apart=_NAMED_APART)
    output = "\n".join([*found, "one name, one thing: give one of them another name"]) if found else ""
    return Outcome("public classes without a namesake", not found, output, "", time.monotonic() - started)


def _licences() -> Outcome:
    started = time.monotonic()
    found = licences.problems()
    return Outcome("licences of what is shipped", not found, "\n".join(found), "", time.monotonic() - started)


CHECKS: tuple[Callable[[], Outcome], ...] = (
    _tool("ruff check", "-m", "ruff", "check", "--quiet", "."),
    _tool("ruff format", "-m", "ruff", "format", "--check", "--quiet", "."),
    _tool("mypy", "-m", "mypy", "--no-error-summary"),
    _tool("import contracts", "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-logo"),
    _drift,
    _sizes,
    _names,
    _licences,
)


def main(arguments: list[str]) -> int:
    """Exit code 0 when everything holds, 1 otherwise."""
    if "--sizes" in arguments:
        found = measure(ROOT, _SIZED)
        print("\n".join([*found.errors, *found.notes]))
        return 1 if found.errors else 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        outcomes = list(pool.map(lambda check: check(), CHECKS))
    for outcome in outcomes:
        mark = "ok    " if outcome.is_ok else "FAILED"
        note = f"  {outcome.note}" if outcome.note else ""
        print(f"{mark} {outcome.name} ({outcome.elapsed_s:.1f} s){note}")
    failed = [outcome for outcome in outcomes if not outcome.is_ok]
    for outcome in failed:
        print(f"\n--- {outcome.name}\n{outcome.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
