"""`sidecar run`: the sidecar itself."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.settings_options import load_settings, settings_options
from sidecar.runtime.grace import FAREWELL_S

if TYPE_CHECKING:
    from sidecar.app import App
    from sidecar.config.settings import Settings

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What an end may take beyond its grace and its farewell before the process is left as it is.
_LAST_RESORT_S = 0.3


@click.command("run")
@click.option("--adopt", is_flag=True, help="Take streams whose configuration differs as they are.")
@click.option("--name", help="This replica's name; default host name and process id.")
@settings_options
@connection_options
@click.pass_obj
def command(
    invocation: Invocation, adopt: bool, name: str | None, config: Path | None, assignments: tuple[str, ...]
) -> int:
    """Run the sidecar until SIGTERM or SIGINT, which drain it; a second signal hurries.

    Settings come from the file, over it the environment SIDECAR_<SECTION>__<KEY>, over that the flags.
    """
    extra = ["nats.adopt=true"] if adopt else []
    extra += [f"name={name}"] if name else []
    settings = load_settings(config, (*assignments, *extra), invocation)
    from sidecar.telemetry import logs

    logs.set_up(level=settings.log.level, form=settings.log.format)

    def reread() -> "Settings":
        return load_settings(config, (*assignments, *extra), invocation)

    return run_loop(serve(settings, reread=reread, watched=config))


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where it is installed. Returns what `work` returns."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def _spare_the_collector() -> None:
    """Leave what was made at start out of every later collection, and collect less often.

    A job's short-lived values are freed by their reference counts; 15 to 17 % of the CPU of a unary job went into
    looking for cycles among them (docs/benchmarks.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def serve(
    settings: "Settings", *, reread: "Callable[[], Settings] | None" = None, watched: Path | None = None
) -> int:
    """Start, wait, drain. Returns the exit code; raises StartupError when it cannot run as configured."""
    from sidecar.app import App

    app = App(settings, reread=reread, watched=watched)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        starting.cancel()
        app.lifecycle.request_drain()

    async def hurried() -> None:
        await app.lifecycle.wait_for_hurry()
        _end_within(0.0, lambda: _outcome(app))

    def drain_from_now_on() -> None:
        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal)

    # Until there is something to drain, the process leaves at once: imports keep the event loop from hearing.
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(exits.OK))
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    hurrying = loop.create_task(hurried())
    # A task of its own: a signal during the start cancels the start alone, and what was opened is closed below.
    starting = loop.create_task(app.start(before_joining=drain_from_now_on))
    try:
        await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()
            _spare_the_collector()
            await app.wait()
    finally:
        _end_within(app.grace_s, lambda: _outcome(app))
        await app.stop()
        hurrying.cancel()
        for number in (*_SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)
    return _outcome(app)


def _end_within(grace_s: float, outcome: Callable[[], int]) -> None:
    """See to it that the process is gone soon after its grace, also where a thread of a library hangs on its exit.

    All that matters is on the bus by then: what was not handed back is taken over.
    """

    def leave() -> None:
        log.error("the process is left as it is: something does not end")
        os._exit(outcome())

    timer = threading.Timer(grace_s + FAREWELL_S + _LAST_RESORT_S, leave)
    timer.daemon = True
    timer.start()


def _outcome(app: "App") -> int:
    return exits.OK if app.lifecycle.failure is None else exits.FAILED
