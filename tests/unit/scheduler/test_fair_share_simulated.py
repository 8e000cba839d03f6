"""The scheduler in virtual time beside others: the orderings that the benchmark measures, with wide margins."""

import pytest

from benchmarks import fairness, fairness_plot, fairness_workloads
from benchmarks.fairness_model import Record, World, simulate
from benchmarks.fairness_policies import Deficit, Fair, Fifo, RoundRobin, Vtc
from sidecar.ports.bus import Lane


def test_tenants_share_by_weight_and_the_others_do_not() -> None:
    world = fairness_workloads.skewed(120.0)
    fair, fifo, rounds = (simulate(world, policy(world)) for policy in (Fair, Fifo, RoundRobin))
    assert fair.jain() > 0.98
    assert max(fifo.jain(), rounds.jain()) < 0.7
    assert fair.gap <= fair.gap_bound
    assert fair.utilisation() > 0.9
    assert fair.throttles < fair.calls / 1_000


def test_a_newcomer_waits_for_two_dispatches_behind_a_flood_and_for_ever_in_a_fifo() -> None:
    world = fairness_workloads.flood(60.0, 1_000_000)
    newcomer = Lane("newcomer", "standard")
    assert simulate(world, Fair(world)).others_before[newcomer] <= 2
    assert newcomer not in simulate(world, Fifo(world)).others_before


def test_mispredicted_outputs_are_corrected() -> None:
    world = fairness_workloads.long_outputs(400.0)
    fair, deficit = (simulate(world, policy(world)) for policy in (Fair, Deficit))
    assert fair.jain() > 0.97
    assert deficit.jain() < 0.8
    assert fair.gap <= fair.gap_bound


def test_idle_time_is_not_saved_up() -> None:
    world = fairness_workloads.on_off(200.0)
    assert fairness.on_off_ratio(simulate(world, Fair(world))) < 1.2
    assert fairness.on_off_ratio(simulate(world, Fifo(world))) > 1.5


def test_classes_share_by_weight_under_full_load() -> None:
    world = fairness_workloads.classes(150.0)
    for figure in fairness.class_figures(simulate(world, Fair(world))):
        assert figure.value > 0.8, figure.line()


def test_agents_with_later_turns_share_with_large_calls() -> None:
    world = fairness_workloads.agents(450.0)
    fair, rounds = (simulate(world, policy(world)) for policy in (Fair, RoundRobin))
    assert fair.jain() > 0.97
    assert rounds.jain() < 0.8


@pytest.fixture(scope="module")
def short_run() -> dict[str, Record]:
    world = fairness_workloads.on_off(185.0)
    return {policy.name: simulate(world, policy(world)) for policy in (Fair, Vtc)}


def test_the_comparison_and_the_picture_name_every_scheduler_and_tenant(short_run: dict[str, Record]) -> None:
    rows = fairness.comparison({"on-off": short_run})
    assert [row["scheduler"] for row in rows] == ["fair share", "plain VTC"]
    world: World = short_run["fair share"].world
    panels = {name: fairness.normalised(world, record) for name, record in short_run.items()}
    picture = fairness_plot.draw({"on-off": panels})
    assert picture.count("<polyline") == 2 * len(world.sources)
    assert all(source.tenant in picture for source in world.sources)
