"""`ToolProvider`: a process's tools, registered and answered for as long as it runs."""

import asyncio
import contextlib
import signal
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sidecar.client.tools.definition import Tool
from sidecar.client.tools.errors import InvalidTool
from sidecar.client.tools.registering import Registrar
from sidecar.client.tools.serving import ToolServer
from sidecar.client.tools.stopping import ProviderEnd
from sidecar.errors import CallTimeout, SidecarError
from sidecar.models.subjects import checked

if TYPE_CHECKING:
    from sidecar.client.client import SidecarClient

DEFAULT_GRACE_S = 10.0
DEFAULT_HEARTBEAT_S = 3.0
_REGISTER_AT_ONCE = 16


class ToolProvider:
    """Serves tools over a client's connection; `SidecarClient.provide` makes one.

    ```python
    async with await SidecarClient.connect(url, tenant="acme") as client:
        async with client.provide([search, order]) as provider:
            await provider.run_until_signal()
    ```
    Several providers of the same tools, in any number of processes, share the calls. Registrations are renewed,
    made again after reconnects, and tried on while no sidecar is there. Stopping deregisters what no other
    provider serves, takes no new calls, and lets those that run finish.
    """

    def __init__(
        self,
        client: "SidecarClient",
        tools: Iterable[Tool[..., Any]],
        *,
        scope: str | None = None,
        grace_s: float = DEFAULT_GRACE_S,
        heartbeat_s: float = DEFAULT_HEARTBEAT_S,
    ) -> None:
        """`scope` is the client's tenant, or `shared` where the sidecar lets it. `grace_s`: what `stop` waits for
        calls. `heartbeat_s`: how often the sidecar hears of a call that takes its time.

        Raises InvalidTool for what is no tool, or a version twice; InvalidRequest for a scope that is no name.
        """
        self.scope = client.tenant if scope is None else checked(scope, what="scope", path="scope")
        self.tools: Sequence[Tool[..., Any]] = _checked(tools)
        self._client = client
        self._grace_s = grace_s
        self._heartbeat_s = heartbeat_s
        self._servers: list[ToolServer] = []
        self._registrars: list[Registrar] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopped = asyncio.Event()

    @property
    def is_registered(self) -> bool:
        """Whether the registry has accepted all tools, and refused none since."""
        return bool(self._registrars) and all(one.accepted.is_set() for one in self._registrars)

    @property
    def in_flight(self) -> int:
        """How many calls run or wait now."""
        return sum(server.in_flight for server in self._servers)

    async def start(self) -> "ToolProvider":
        """Listen, and register once; returns with all tools registered unless the sidecar is away.

        Then the provider tries on by itself: `wait_registered` tells when it worked. Raises what the registry
        refuses a tool with (InvalidRequest, Permanent, AccessDenied); nothing is left running then.
        """
        # The registry answers in turns a tenant: a hundred tools at once would time out behind each other.
        turns = asyncio.Semaphore(_REGISTER_AT_ONCE)
        for tool in self.tools:
            server = ToolServer(tool, self._client.bus, root=self._client.subjects.root)
            registrar = Registrar(
                server,
                self._client.bus,
                subjects=self._client.subjects,
                scope=self.scope,
                request_timeout_s=self._client.request_timeout_s,
                turns=turns,
            )
            self._servers.append(server)
            self._registrars.append(registrar)
            self._tasks.append(asyncio.create_task(registrar.keep()))
        self._tasks.append(asyncio.create_task(self._beat()))
        try:
            refusals = [await registrar.tried for registrar in self._registrars]
        except asyncio.CancelledError:
            await self.stop(grace_s=0)
            raise
        refusal = next((one for one in refusals if one is not None), None)
        if refusal is not None:
            await self.stop(grace_s=0)
            raise refusal
        return self

    async def wait_registered(self, *, timeout_s: float | None = None) -> None:
        """Return once the registry has accepted all tools. Raises CallTimeout."""
        try:
            async with asyncio.timeout(timeout_s):
                for registrar in self._registrars:
                    await registrar.accepted.wait()
        except TimeoutError as e:
            raise CallTimeout(f"not all tools are registered after {timeout_s} s", limit="total") from e

    async def stop(self, *, grace_s: float | None = None) -> None:
        """Deregister, take no new calls, let those that run finish within the grace. Idempotent.

        What runs longer is cancelled, and its callers are told. The grace is one for all of it: a second later
        this returns, whatever the bus does. Never raises for a bus that is away.
        """
        end = ProviderEnd(self._grace_s if grace_s is None else grace_s)
        tasks, self._tasks = self._tasks, []
        beat = tasks.pop() if tasks else None
        registrars, self._registrars = self._registrars, []
        for registrar in registrars:
            registrar.leave()
        for task in tasks:
            task.cancel()
        if tasks:
            # Not for ever: nats-py's requests may swallow the cancellation, and end by their timeout.
            await asyncio.wait(tasks, timeout=end.limit_s(self._client.request_timeout_s))
        await asyncio.gather(*(registrar.end(end) for registrar in registrars))
        if beat is not None:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            with contextlib.suppress(SidecarError):
                await self._client.bus.flush(timeout_s=end.limit_s(self._client.request_timeout_s))
        self._is_stopped.set()

    async def run_until_signal(self, *signals: signal.Signals) -> None:
        """Return when the process is asked to end (SIGINT and SIGTERM unless given), or `stop` is called."""
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        chosen = signals or (signal.SIGINT, signal.SIGTERM)
        for one in chosen:
            loop.add_signal_handler(one, asked.set)
        waits = [asyncio.ensure_future(event.wait()) for event in (asked, self._is_stopped)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            for one in chosen:
                loop.remove_signal_handler(one)

    async def __aenter__(self) -> "ToolProvider":
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for server in self._servers:
                server.beat(older_s=self._heartbeat_s)


def _checked(tools: Iterable[Any]) -> Sequence[Tool[..., Any]]:
    checked: dict[tuple[str, str], Tool[..., Any]] = {}
    for one in tools:
        if not isinstance(one, Tool):
            raise InvalidTool(
                f"{getattr(one, '__qualname__', one)!r} is no tool: decorate the function with @tool"
            )
        if (one.name, one.version) in checked:
            raise InvalidTool(f"two tools are called {one.name}@{one.version}: give one another name or version")
        checked[one.name, one.version] = one
    if not checked:
        raise InvalidTool("no tools were given: nothing could be provided")
    return tuple(checked.values())
