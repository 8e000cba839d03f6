"""The arithmetic of the benches on a real bus."""

import json

import pytest

from benchmarks.real_load import Kind, Sent, jain, longest_gap, unharmed_p99
from benchmarks.real_workloads import Tenant, quota_for


def test_jain_is_one_where_all_are_equal_and_a_share_where_one_has_all() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([0.0, 0.0]) == 0.0


def test_the_longest_gap_reaches_to_the_ends_of_the_window() -> None:
    assert longest_gap([1.0, 2.0, 9.0, 50.0], 0.0, 10.0) == 7.0
    assert longest_gap([], 3.0, 8.0) == 5.0


def test_a_wait_counts_of_jobs_that_met_no_fault_and_goes_on_where_none_began() -> None:
    jobs = [Sent("a", "t", 0.0, begun_at=1.0, calls=1), Sent("b", "t", 0.0, begun_at=9.0, calls=2)]
    assert unharmed_p99(jobs, now=20.0) == 1.0
    assert unharmed_p99([*jobs, Sent("c", "t", 5.0)], now=20.0) == 15.0


def test_a_request_has_the_tokens_that_its_kind_says() -> None:
    body = json.loads(Kind(input_tokens=300, output_tokens=30).request())
    assert len(body["messages"][0]["content"]) == 1_200
    assert body["params"]["max_tokens"] == 60


def test_the_quota_lets_so_many_jobs_end_by_weight() -> None:
    small, large = Kind(input_tokens=50, output_tokens=50), Kind(input_tokens=100, output_tokens=100)
    tenants = [Tenant(name="a", kind=small, weight=1.0), Tenant(name="b", kind=large, weight=2.0)]
    # By weight a gets one third of the tokens and b two thirds: as many jobs of each.
    assert quota_for(tenants, burndown=1.0, jobs_a_second=30) == 60 * (15 * 100 + 15 * 200)
