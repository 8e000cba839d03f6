"""Is it fair? The real scheduler in virtual time, beside four others, against a simulated Bedrock quota.

`python -m benchmarks.fairness` prints the figures with their bars and writes JSON and a picture of the service
curves to `docs/img`; `--quick` runs a shorter version that writes nothing. Exit code 1 when a bar is missed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import fairness_plot, fairness_speed, fairness_workloads
from benchmarks.fairness_model import Record, World, name_of, simulate
from benchmarks.fairness_policies import CLASSES, POLICIES, Fair
from sidecar.ports.bus import Lane

OUT = Path(__file__).parent.parent / "docs" / "img"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table of bars."""

    name: str
    value: float
    bar: float
    is_upper: bool
    detail: str = ""

    @property
    def is_met(self) -> bool:
        return self.value <= self.bar if self.is_upper else self.value >= self.bar

    def line(self) -> str:
        sign = "≤" if self.is_upper else "≥"
        return (
            f"{'pass' if self.is_met else 'FAIL'}  {self.name:<62} {self.value:>12,.4g}  {sign} {self.bar:<10,.4g}"
            f" {self.detail}"
        ).rstrip()


Records = dict[str, dict[str, Record]]


def run(*, is_quick: bool, progress: Callable[[str], None]) -> Records:
    """Every workload under every scheduler."""
    seconds = 240.0 if is_quick else 900.0
    jobs = 100_000 if is_quick else 1_000_000
    worlds = (
        fairness_workloads.skewed(seconds),
        fairness_workloads.flood(seconds, jobs),
        fairness_workloads.long_outputs(seconds),
        fairness_workloads.on_off(seconds),
        fairness_workloads.agents(seconds),
        fairness_workloads.classes(seconds),
    )
    records: Records = {}
    for world in worlds:
        progress(world.name)
        records[world.name] = {policy.name: simulate(world, policy(world)) for policy in POLICIES}
    return records


def figures(records: Records) -> list[Figure]:
    """The product's figures against their bars."""
    fair = {name: by_policy[Fair.name] for name, by_policy in records.items()}
    backlogged = ("skewed", "long outputs", "agents")
    gap = max(("skewed", "long outputs"), key=lambda name: fair[name].gap / fair[name].gap_bound)
    newcomer = fair["flood"].others_before.get(Lane("newcomer", "standard"), 10**6)
    calls = sum(record.calls for record in fair.values())
    throttles = sum(record.throttles for record in fair.values())
    used = min((fair[name].utilisation(), name) for name in (*backlogged, "on-off", "classes"))
    return [
        *(Figure(f"weighted Jain index, {name}", fair[name].jain(), 0.99, False) for name in backlogged),
        Figure(
            "largest service difference ÷ its bound", fair[gap].gap / fair[gap].gap_bound, 1.0, True,
            f"{fair[gap].gap:.2f} of {fair[gap].gap_bound:.2f} pool-seconds, {gap}",
        ),
        Figure("newcomer's dispatches behind the flood", newcomer, 2, True),
        *class_figures(fair["classes"]),
        Figure("on-off tenant's service while on ÷ fair", on_off_ratio(fair["on-off"]), 1.1, True),
        Figure("quota used while there is backlog", used[0], 0.95, False, f"lowest: {used[1]}"),
        Figure("throttles, share of calls", throttles / calls, 0.001, True, f"{throttles} of {calls}"),
    ]  # fmt: skip


def class_figures(record: Record) -> list[Figure]:
    """Each class's share of the service, as a part of what its weight asks for."""
    served = {name: sum(v for lane, v in record.served.items() if lane.job_class == name) for name in CLASSES}
    total, weights = sum(served.values()), sum(CLASSES.values())
    return [
        Figure(
            f"class {name}: share ÷ share by weight", served[name] / total / (CLASSES[name] / weights), 0.9, False,
            f"{served[name] / total:.4f} of {CLASSES[name] / weights:.4f}",
        )
        for name in CLASSES
    ]  # fmt: skip


def on_off_ratio(record: Record) -> float:
    """What the on-off tenant got in the minute after each start, over a third of what everybody got."""
    ratios = []
    lanes = [source.lane for source in record.world.sources]
    for start, _ in record.world.sources[0].bursts:
        if start + 40 <= record.world.seconds:
            given = [record.service(lane, start, start + 40) for lane in lanes]
            ratios.append(given[0] / (sum(given) / len(given)))
    return max(ratios)


def speed_figures(*, is_quick: bool) -> list[Figure]:
    """Decisions a second and memory."""
    rounds = 2 if is_quick else 7
    lanes = 2_000 if is_quick else 10_000
    speed = fairness_speed.decisions(lanes, rounds=rounds)
    return [
        Figure(
            f"dispatch decisions a second, {lanes:,} lanes", speed.grants, 100_000, False,
            f"with settlement {speed.pairs:,.0f}; best of {rounds}, CPU time",
        ),
        Figure(
            f"MB for full windows of {lanes:,} tenants", fairness_speed.memory_bytes(lanes) / 1e6, 100, True,
            "any backlog behind them",
        ),
    ]  # fmt: skip


def comparison(records: Records) -> list[dict[str, Any]]:
    """A row for each workload and scheduler."""
    newcomer = Lane("newcomer", "standard")
    return [
        {
            "workload": workload,
            "scheduler": policy,
            "jain": round(_jain(record), 4),
            "gap_pool_s": round(record.gap, 2),
            "quota_used": round(record.utilisation(), 3),
            "throttles": record.throttles,
            "calls": record.calls,
            "newcomer_dispatches": record.others_before.get(newcomer) if workload == "flood" else None,
            "class_shares": class_shares(record) if workload == "classes" else None,
            "on_off_ratio": round(on_off_ratio(record), 2) if workload == "on-off" else None,
        }
        for workload, by_policy in records.items()
        for policy, record in by_policy.items()
    ]


def class_shares(record: Record) -> dict[str, float]:
    """Each class's part of the service."""
    total = sum(record.served.values())
    return {
        name: round(sum(v for lane, v in record.served.items() if lane.job_class == name) / total, 4)
        for name in CLASSES
    }


def _jain(record: Record) -> float:
    """Over tenants; within each class where there are several, the worst of them."""
    names = {lane.job_class for lane in record.served}
    return min(record.jain(job_class=name) for name in names) if names else 0.0


def print_comparison(rows: list[dict[str, Any]]) -> None:
    print(f"{'workload':<14}{'scheduler':<14}{'Jain':>8}{'gap':>9}{'quota':>8}{'429s':>7}{'calls':>8}  remarks")
    for row in rows:
        remarks = []
        if row["workload"] == "flood":
            behind = row["newcomer_dispatches"]
            remarks.append("newcomer never served" if behind is None else f"newcomer after {behind}")
        if row["on_off_ratio"] is not None:
            remarks.append(f"on-off gets {row['on_off_ratio']} × fair")
        if row["class_shares"]:
            remarks.append("classes " + " : ".join(f"{share:.3f}" for share in row["class_shares"].values()))
        steady = row["workload"] != "flood"
        jain, gap = (f"{row['jain']:.4f}", f"{row['gap_pool_s']:.2f}") if steady else ("", "")
        print(
            f"{row['workload']:<14}{row['scheduler']:<14}{jain:>8}{gap:>9}{row['quota_used']:>8.3f}"
            f"{row['throttles']:>7}{row['calls']:>8}  {', '.join(remarks)}"
        )


def curves(records: Records) -> dict[str, dict[str, dict[str, list[tuple[float, float]]]]]:
    """What the picture shows: the service of each lane divided by its weight."""
    return {
        workload: {policy: normalised(record.world, record) for policy, record in records[workload].items()}
        for workload in ("skewed", "flood", "long outputs", "on-off", "agents")
    }


def normalised(world: World, record: Record) -> dict[str, list[tuple[float, float]]]:
    """Each lane's curve, divided by its weight."""
    return {
        name_of(source.lane): [(t, v / source.weight) for t, v in record.curves[name_of(source.lane)]]
        for source in world.sources
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter, for tests; writes nothing by itself")
    parser.add_argument("--out", type=Path, help="where fairness.json and fairness.svg go (default: docs/img)")
    options = parser.parse_args(arguments)
    records = run(is_quick=options.quick, progress=lambda name: print(f"… {name}", file=sys.stderr, flush=True))
    found = figures(records) + speed_figures(is_quick=options.quick)
    rows = comparison(records)
    print_comparison(rows)
    print()
    for figure in found:
        print(figure.line())
    out = options.out or (None if options.quick else OUT)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        listed = [
            {"name": f.name, "value": f.value, "bar": f.bar, "met": f.is_met, "detail": f.detail} for f in found
        ]
        (out / "fairness.json").write_text(json.dumps({"figures": listed, "comparison": rows}, indent=1) + "\n")
        (out / "fairness.svg").write_text(fairness_plot.draw(curves(records)))
    return 0 if all(figure.is_met for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
