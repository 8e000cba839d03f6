"""The way of a job in figures: calls of Python functions, frames down to the model client, lengths of functions.

Counted by a profile hook, outside `adapters/`, what reads NATS's bytes (`wire/`) and what only tests run; the
resumption of a coroutine or generator counts as a call. What a test's client does is left out.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import sidecar
from tests.support.replica import bench
from tests.support.scripted_model import says
from tests.support.tool_jobs import Providers, by_turn, call
from tests.support.virtual_time import VirtualClock

ROOT = Path(sidecar.__file__).parent
# At 0.1.0, over its twins of the ports, counted in the same way.
CALLS_BEFORE = {"plain": 736, "one tool": 1383}
FRAMES_BEFORE = {"plain": 13, "one tool": 15}
_APART = ("adapters", "wire", "emulator", "client")
_CLIENT = str(Path(__file__).with_name("replica.py"))


class Way(NamedTuple):
    """`calls` by "file:function"; `frames` from the worker down to the model client, which is not among them."""

    calls: Counter[str]
    frames: tuple[str, ...]

    @property
    def files(self) -> int:
        return len({name.partition(":")[0] for name in self.calls})


async def count_way(*, with_tool: bool) -> Way:
    """Count the second job of a replica: the first one pays for what is made once."""
    clock = VirtualClock()
    model = by_turn(clock, [call("add", n=2)], says("four")) if with_tool else None
    async with bench(model) as b:
        await b.replica()
        more: dict[str, Any] = {"tools": ["add"]} if with_tool else {}
        if with_tool:
            await Providers(b).add("add", lambda given: {"sum": given["n"] + 2})
        await b.result(await b.submit(**more))
        await b.clock.settle()
        way = Way(Counter(), ())
        frames: list[str] = []

        def count(frame: FrameType, event: str, arg: object) -> None:
            if event != "call":
                return
            name = _counted(frame)
            if name is not None and not any(f.f_code.co_filename == _CLIENT for f in _callers(frame)):
                way.calls[name] += 1
            if not frames and frame.f_code.co_qualname == "ScriptedModel.converse":
                frames.extend(f.f_code.co_qualname for f in _callers(frame) if _counted(f))

        sys.setprofile(count)
        try:
            await b.result(await b.submit(**more))
        finally:
            sys.setprofile(None)
    return way._replace(frames=tuple(reversed(frames)))


def _callers(frame: FrameType) -> Iterator[FrameType]:
    found = frame.f_back
    while found is not None:
        yield found
        found = found.f_back


def _counted(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(ROOT):
        return None
    below = path.relative_to(ROOT)
    return None if below.parts[0] in _APART else f"{below}:{frame.f_code.co_qualname}"


def function_lengths() -> list[int]:
    """Lines of every function of the product, shortest first: from its `def` to its end, docstring included."""
    lengths = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths.append((node.end_lineno or node.lineno) - node.lineno + 1)
    return sorted(lengths)


def percentile_95(lengths: list[int]) -> int:
    return lengths[int(len(lengths) * 0.95)]
