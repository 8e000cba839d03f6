"""Replies in turn, few of them before the connection at once."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from sidecar.adapters.nats.fair.outlet import WINDOW_BYTES, Outlet
from sidecar.errors import BusUnavailable

LARGE = WINDOW_BYTES


class Pipe:
    """A connection that sends when it is told to."""

    def __init__(self) -> None:
        self.backlog = 0
        self.worst = 0
        self.sent: list[bytes] = []
        self.error: BusUnavailable | None = None
        self._emptied = asyncio.Event()

    def send(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(data)
        self.backlog += len(data)
        self.worst = max(self.worst, self.backlog)
        self._emptied.clear()

    async def drained(self) -> None:
        if self.error is not None:
            raise self.error
        await self._emptied.wait()

    def empty(self) -> None:
        self.backlog = 0
        self._emptied.set()

    def fail(self) -> None:
        self.error = BusUnavailable("gone")
        self.backlog = 0
        self._emptied.set()


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def outlet(pipe: Pipe) -> Outlet:
    def spawn(work: Coroutine[Any, Any, None], *, name: str) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(work, name=name)

    return Outlet(pipe, spawn=spawn)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def all_sent(pipe: Pipe, *tasks: "asyncio.Task[None]") -> None:
    while not all(task.done() for task in tasks):
        pipe.empty()
        await settle()
    await asyncio.gather(*tasks)


async def test_a_reply_goes_out_at_once_where_nothing_waits(pipe: Pipe, outlet: Outlet) -> None:
    await outlet.send("acme", b"x")
    assert pipe.sent == [b"x"]


async def test_no_more_than_a_window_and_one_reply_lie_before_the_connection(pipe: Pipe, outlet: Outlet) -> None:
    sends = [asyncio.create_task(outlet.send("busy", b"x" * 100_000)) for _ in range(50)]
    await all_sent(pipe, *sends)
    assert len(pipe.sent) == 50
    assert pipe.worst < WINDOW_BYTES + 100_000


async def test_a_small_reply_of_another_passes_many_large_ones(pipe: Pipe, outlet: Outlet) -> None:
    sends = [asyncio.create_task(outlet.send("busy", b"x" * LARGE)) for _ in range(20)]
    await settle()
    other = asyncio.create_task(outlet.send("other", b"small"))
    await all_sent(pipe, other)
    assert pipe.sent.index(b"small") <= 2
    await all_sent(pipe, *sends)


async def test_turns_go_by_bytes_and_not_by_replies(pipe: Pipe, outlet: Outlet) -> None:
    large = [asyncio.create_task(outlet.send("large", b"L" * LARGE)) for _ in range(4)]
    small = [asyncio.create_task(outlet.send("small", b"s" * (LARGE // 4))) for _ in range(16)]
    await all_sent(pipe, *large, *small)
    order = "".join(chr(data[0]) for data in pipe.sent)
    assert order.index("L", order.index("s")) - order.index("s") == 4


async def test_callers_learn_that_the_connection_went_away(pipe: Pipe, outlet: Outlet) -> None:
    sends = [asyncio.create_task(outlet.send("busy", b"x" * LARGE)) for _ in range(4)]
    await settle()
    pipe.fail()
    ends = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), *[BusUnavailable] * 3]
    pipe.error = None
    await outlet.send("busy", b"again")
    assert pipe.sent[-1] == b"again"


async def test_a_reply_that_nobody_waits_for_any_more_is_left_out(pipe: Pipe, outlet: Outlet) -> None:
    sends = [asyncio.create_task(outlet.send("busy", b"%d" % i + b"x" * LARGE)) for i in range(3)]
    await settle()
    sends[1].cancel()
    await all_sent(pipe, sends[0], sends[2])
    assert [data[:1] for data in pipe.sent] == [b"0", b"2"]
