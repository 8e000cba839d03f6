"""The table and the JSON document of a run: pure."""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measures import Figure, number, spread

HEADER = ("figure", "bar", "measured", "±", "beside it", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The circumstances of a run. Loads are the machine's one-minute averages; times are seconds."""

    started: str
    elapsed_s: float
    version: str
    load_before: float
    load_after: float
    peer: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)


def machine() -> dict[str, Any]:
    """What the figures depend on and a reader of the JSON cannot know."""
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def table(figures: Iterable[Figure]) -> str:
    """Plain text, one line a figure, columns aligned."""
    rows = [HEADER, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(_cell(row, i, widths[i]) for i in range(len(HEADER))).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths).rstrip())
    return "\n".join(lines)


def _cell(row: Sequence[str], column: int, width: int) -> str:
    return row[column].rjust(width) if column in (1, 2, 3) else row[column].ljust(width)


def _row(figure: Figure) -> tuple[str, ...]:
    name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
    if figure.measured is None:
        return (name, str(figure.bar or ""), "-", "", figure.error, figure.verdict)
    varied = f"{spread(figure.samples):.0%}" if len(figure.samples) > 1 else ""
    beside = [_beside(figure, anchor, value) for anchor, value in figure.anchors]
    beside += [figure.note] if figure.note else []
    bar = str(figure.bar) if figure.bar else ""
    return (name, bar, number(figure.measured), varied, "; ".join(beside), figure.verdict)


def _beside(figure: Figure, anchor: str, value: float) -> str:
    ratio = figure.ratio(value)
    return f"{anchor} {number(value)}" + (f" ({ratio:.2f}x)" if ratio is not None else "")


def document(run: Run, figures: Iterable[Figure]) -> dict[str, Any]:
    """The run as JSON values; every sample stands in it, so that another median can be taken."""
    return {
        "schema": "sidecar-bench/1",
        "started": run.started,
        "elapsed_s": round(run.elapsed_s, 1),
        "version": run.version,
        "machine": run.machine,
        "load": {"before": run.load_before, "after": run.load_after},
        "peer": run.peer,
        "figures": [_entry(figure) for figure in figures],
    }


def _entry(figure: Figure) -> dict[str, Any]:
    bar = figure.bar
    return {
        "name": figure.name,
        "group": figure.group,
        "unit": figure.unit,
        "bar": {"at_least" if bar.is_least else "at_most": bar.value} if bar else None,
        "measured": figure.measured,
        "samples": list(figure.samples),
        "anchors": {name: {"value": value, "ratio": figure.ratio(value)} for name, value in figure.anchors},
        "verdict": figure.verdict or None,
        "note": figure.note or None,
        "error": figure.error or None,
    }


def exit_code(figures: Iterable[Figure], *, is_strict: bool) -> int:
    """0; 1 when a measurement could not be made, or, with `is_strict`, when a bar was missed."""
    bad = {"no figure", "FAIL"} if is_strict else {"no figure"}
    return int(any(figure.verdict in bad for figure in figures))
