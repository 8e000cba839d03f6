"""The emulator as a server: `Emulator` inside this process, `serve` until it is cancelled."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from sidecar.emulator.auth import AuthPolicy
from sidecar.emulator.control import Control
from sidecar.emulator.http import HttpFront
from sidecar.emulator.journal import CallRecord
from sidecar.emulator.scenario import Scenario, load_scenario, make_scenario
from sidecar.emulator.service import BedrockService

MAX_REQUEST_BYTES = 64 * 1024 * 1024
_BACKLOG = 1_024


class Emulator:
    """A local Bedrock on loopback, for use with `async with` or `start` and `stop`.

    `scenario` is a `Scenario`, its mapping, or the path of its file. `port` 0 takes a free one; `url` is known
    after `start`. `profiles` maps application inference profiles to model ids. `auth` decides whom to let in.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        scenario: Scenario | Mapping[str, Any] | Path | None = None,
        auth: AuthPolicy | None = None,
        profiles: Mapping[str, str] | None = None,
        keep_calls: int = 1_000,
    ) -> None:
        self._host = host
        self._port = port
        self._auth = auth or AuthPolicy()
        self._service = BedrockService(_read_scenario(scenario), keep_calls=keep_calls, profiles=profiles)
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """`http://host:port`, to be given to clients as their endpoint."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def calls(self) -> list[CallRecord]:
        """The last calls, oldest first, those in flight included."""
        return list(self._service.journal.calls)

    @property
    def active_calls(self) -> int:
        """Calls being answered now."""
        return len(self._service.journal.active)

    @property
    def open_connections(self) -> int:
        """TCP connections that clients hold open."""
        return len(self._web.connections) if self._web else 0

    async def wait_until(self, is_true: Callable[["Emulator"], bool]) -> None:
        """Return once `is_true(emulator)` was so: asked now, and at the moment that any call begins or ends."""
        await self._service.journal.wait_until(lambda: is_true(self))

    async def start(self) -> None:
        """Listen. Raises OSError where the address is taken."""
        front = HttpFront(
            self._service, Control(self._service, count_connections=lambda: self.open_connections), self._auth
        )
        loop = asyncio.get_running_loop()
        self._web = web.Server(
            front.handle, request_factory=_make_request, handler_cancellation=True, access_log=None
        )
        self._listener = await loop.create_server(self._web, self._host, self._port, backlog=_BACKLOG)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, cut what is in flight. May be called twice."""
        if self._listener:
            self._listener.close()
            self._listener = None
        if self._web:
            await self._web.shutdown(timeout=0.1)
            self._web = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def behave(self, directives: str) -> None:
        """Set the default behaviour, in the grammar of `grammar.py`. Raises ValueError."""
        self._change(default=directives)

    def add_rule(self, **rule: Any) -> None:
        """Add a rule of a scenario after the others, e.g. `model="*nova*", behave="fault=internal"`."""
        self._change(rule=[*msgspec.to_builtins(self._service.script.scenario.rule), rule])

    def set_quota(self, *rules: Mapping[str, Any]) -> None:
        """Replace the quotas, e.g. `{"model": "*", "tokens_per_minute": 6000}`. All pools start full."""
        self._service.set_quota(make_scenario({"quota": list(rules)}).quota)

    def load(self, scenario: Scenario | Mapping[str, Any] | Path) -> None:
        """Replace the whole scenario."""
        self._service.load(_read_scenario(scenario))

    def reset(self) -> None:
        """Forget calls, counters, cached prompts and what `times` has counted; the scenario stays."""
        self._service.reset()

    def counters(self) -> dict[str, Any]:
        """As the control endpoint's `counters`."""
        return {**self._service.journal.snapshot(), "open_connections": self.open_connections}

    def quota(self) -> dict[str, Any]:
        """As the control endpoint's `quota`."""
        return self._service.quotas.snapshot()

    def _change(self, **changes: Any) -> None:
        current = msgspec.to_builtins(self._service.script.scenario)
        self._service.script.load(make_scenario({**current, **changes}))


def _make_request(
    message: Any, payload: Any, protocol: Any, writer: Any, task: "asyncio.Task[None]"
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_REQUEST_BYTES)


def _read_scenario(scenario: Scenario | Mapping[str, Any] | Path | None) -> Scenario:
    if scenario is None:
        return Scenario()
    if isinstance(scenario, Scenario):
        return scenario
    return load_scenario(scenario) if isinstance(scenario, Path) else make_scenario(dict(scenario))


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    scenario_path: Path | None = None,
    auth: AuthPolicy | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run an emulator until cancelled; `on_ready` is given its url. Raises ValueError (scenario), OSError."""
    emulator = Emulator(host=host, port=port, scenario=scenario_path, auth=auth)
    await emulator.start()
    try:
        if on_ready:
            on_ready(emulator.url)
        await asyncio.Event().wait()
    finally:
        await emulator.stop()
