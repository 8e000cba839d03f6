"""What a job costs in calls and frames, and how long functions are: bounds that no change passes unnoticed."""

import pytest

from tests.support.call_count import CALLS_BEFORE, count_way, function_lengths, percentile_95


@pytest.mark.parametrize(("name", "with_tool", "frames"), [("plain", False, 7), ("one tool", True, 9)])
async def test_a_job_takes_at_most_so_many_calls(name: str, with_tool: bool, frames: int) -> None:
    way = await count_way(with_tool=with_tool)
    # Three fifths of what 0.1.0 took. Where this fails: `python -m scripts.way --functions` says what was called.
    assert way.calls.total() <= 0.6 * CALLS_BEFORE[name]
    assert len(way.frames) <= frames, way.frames


def test_steps_are_not_pasted_together() -> None:
    assert percentile_95(function_lengths()) <= 25
