"""Prints what the way of a job costs: `python -m scripts.way`, with `--functions` by function.

The bounds stand in `tests/unit/pipeline/test_way_in_figures.py`.
"""

import argparse
import asyncio
import logging

from tests.support.call_count import (
    CALLS_BEFORE,
    FRAMES_BEFORE,
    Way,
    count_way,
    function_lengths,
    percentile_95,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.way", description=__doc__)
    parser.add_argument("--functions", action="store_true", help="how often each function is called")
    by_function = parser.parse_args().functions
    logging.disable(logging.CRITICAL)
    for name, with_tool in (("plain", False), ("one tool", True)):
        _tell(name, asyncio.run(count_way(with_tool=with_tool)), by_function=by_function)
    lengths = function_lengths()
    print(f"{len(lengths)} functions: 95th percentile {percentile_95(lengths)} lines, longest {lengths[-1]}")


def _tell(name: str, way: Way, *, by_function: bool) -> None:
    calls, before = way.calls.total(), CALLS_BEFORE[name]
    print(
        f"{name}: {calls} calls of {len(way.calls)} functions in {way.files} files"
        f" (0.1.0: {before}, {calls / before:.0%}); {len(way.frames)} frames from worker to model client"
        f" (0.1.0: {FRAMES_BEFORE[name]})"
    )
    if by_function:
        for function, times in way.calls.most_common():
            print(f"  {times:4} {function}")


if __name__ == "__main__":
    main()
