"""`sidecar top`: who waits, who runs, who gets what share, by the statistics that replicas send each second."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options

if TYPE_CHECKING:
    from sidecar.adapters.nats.client.message import BusMessage
    from sidecar.models.stats import Stats

FIRST_S = 5.0
SETTLE_S = 1.2


@click.command("top")
@click.option("--once", is_flag=True, help="One look instead of a live one.")
@click.option("-n", "--tenants", "most", type=click.IntRange(1), default=20, show_default=True)
@connection_options
@click.pass_obj
def command(invocation: Invocation, once: bool, most: int) -> int:
    """Show tenants, classes, quota pools and replicas, live.

    Needs the right to subscribe to `<prefix>.v1.sys.stats`. With --json one document a second, with --once one.
    Exit 4 when no sidecar says anything.
    """
    return asyncio.run(_top(invocation, once=once, most=most))


async def _top(invocation: Invocation, *, once: bool, most: int) -> int:
    from rich.console import Console
    from rich.live import Live

    from sidecar.cli.bus import connected
    from sidecar.cli.top_view import screen
    from sidecar.models.subjects import Subjects

    heard: dict[str, Stats] = {}
    news = asyncio.Event()
    async with connected(invocation, name="top") as mux:
        await mux.subscribe(Subjects(invocation.prefix).sys("stats"), _hear(heard, news))
        if not await _wait(news, FIRST_S):
            invocation.note("no sidecar sends statistics here")
            return exits.TIMEOUT
        if once:
            await asyncio.sleep(SETTLE_S)
            _print(invocation, heard, most)
            return exits.OK
        if invocation.is_json:
            while True:
                await asyncio.sleep(1.0)
                _print(invocation, heard, most)
        with Live(screen(heard, most=most), console=Console(), screen=True, auto_refresh=False) as live:
            while True:
                await _wait(news, 2.0)
                live.update(screen(heard, most=most), refresh=True)


def _print(invocation: Invocation, heard: "dict[str, Stats]", most: int) -> None:
    if invocation.is_json:
        invocation.json({"replicas": sorted(heard.values(), key=lambda stats: stats.replica)})
        return
    from rich.console import Console

    from sidecar.cli.top_view import screen

    console = Console()
    (console if console.is_terminal else Console(width=160)).print(screen(heard, most=most))


def _hear(heard: "dict[str, Stats]", news: asyncio.Event) -> "Callable[[BusMessage], None]":
    import msgspec

    from sidecar.models.stats import Stats

    decode = msgspec.json.Decoder(Stats).decode

    def hear(message: "BusMessage") -> None:
        try:
            stats = decode(message.payload)
        except msgspec.DecodeError:
            return
        heard[stats.replica] = stats
        for name in [n for n, other in heard.items() if _is_gone(other, stats)]:
            del heard[name]
        news.set()

    return hear


def _is_gone(other: "Stats", latest: "Stats") -> bool:
    from sidecar.models.base import epoch

    return epoch(latest.time) - epoch(other.time) > 5.0


async def _wait(news: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return False
    news.clear()
    return True
