"""The composition root: a whole process, put together of adapters, ports and the replica over them."""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from sidecar import __version__
from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.adapters.http.admin import AdminRoute, AdminServer, Page
from sidecar.adapters.http.guard import Guard
from sidecar.adapters.nats.client.connection import Connection, State
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.client.pace import Pace
from sidecar.adapters.nats.micro import NatsEndpoints
from sidecar.adapters.nats.ports import nats_endpoints, nats_ports
from sidecar.adapters.nats.server_time import ServerTime
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.adapters.nats.streams.topology import largest_queue
from sidecar.adapters.nats.streams.upkeep import Upkeep
from sidecar.config.reloading import Reloader
from sidecar.config.settings import Policy, Settings
from sidecar.models.stats import ReplicaState
from sidecar.replica import Replica
from sidecar.runtime.bounded_work import BoundedWork, WorkLimits
from sidecar.runtime.grace import Grace
from sidecar.runtime.lifecycle import Lifecycle, LoopLag, Phase, SystemClock, Tasks
from sidecar.runtime.server_clock import NEAR_S, ServerClock, shown_offset
from sidecar.telemetry.tracing import open_tracer

log = logging.getLogger(__name__)


def replica_name(settings: Settings) -> str:
    """This process's name among the replicas: the setting, or host name and process id."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:48]
    return settings.name or f"{host}-{os.getpid()}"


class App:
    """A whole process. `start`, then `wait` until somebody asks for the end or it cannot go on, then `stop`."""

    def __init__(
        self, settings: Settings, *, reread: Callable[[], Settings] | None = None, watched: Path | None = None
    ) -> None:
        """`reread` gives the settings anew, from the file `watched` and whatever else they came from."""
        self.settings = settings
        self._reread = reread
        self._watched = watched
        self._reloader: Reloader | None = None
        self.lifecycle = Lifecycle()
        self.name = replica_name(settings)
        self.replica: Replica | None = None
        self._mux: Mux | None = None
        self._connections: dict[str, Connection] = {}
        self._pace = Pace()
        self._endpoints: NatsEndpoints | None = None
        self.admin: AdminServer | None = None
        self._closing = AsyncExitStack()
        self._is_closing = False
        self._lingering: asyncio.TimerHandle | None = None
        self._grace_s = settings.jobs.drain_s
        self._lag = LoopLag()
        self._clock = ServerClock(SystemClock())
        self._scraped: tuple[float, Page] | None = None
        limits = settings.bounded_work
        self._work = BoundedWork(
            WorkLimits(
                processes=limits.processes,
                limit_s=limits.time_limit_s,
                memory_bytes=limits.memory_bytes,
                idle_s=limits.idle_s,
            )
        )

    async def start(self, *, before_joining: Callable[[], None] = lambda: None) -> None:
        """Raises StartupError when the process cannot run as configured. Waits while NATS is away.

        `before_joining` is called when the others are about to learn of this replica: up to there nothing has to
        be given back when the process ends.
        """
        self.lifecycle.enter(Phase.STARTING)
        self._lag.start()
        self._closing.callback(self._lag.stop)
        self._closing.push_async_callback(self._work.close)
        tracer = open_tracer(version=__version__, **self.settings.telemetry.model_dump())
        # Opened first and so closed last: a collector that is away takes no time from what goes over the bus.
        self._closing.push_async_callback(tracer.close)
        if self.settings.admin.enabled:
            await self._start_admin()
        mux = self._mux = await self._connect()
        requests = await self._connect_for_requests()
        await ensure(mux, self.settings)
        await self._start_clock(mux)
        models = BedrockManager(self.settings.bedrock, work=self._work)
        await models.start()
        self._closing.push_async_callback(models.close)
        self._endpoints = nats_endpoints(requests, self.settings, self._clock)
        self.replica = Replica(
            self.settings,
            nats_ports(mux, self.settings, models, clock=self._clock, endpoints=self._endpoints),
            name=self.name,
            on_crash=self.lifecycle.fail,
            state=self._replica_state,
            work=self._work,
            tracer=tracer,
            clock_offset_s=lambda: self._clock.offset_s,
        )
        for warning in self.replica.coordinator.warnings:
            log.warning("model configuration", extra={"warning": warning})
        await self._start_reloading(mux, self.replica)
        self._start_upkeep(mux)
        before_joining()
        await self.replica.start()
        self.lifecycle.enter(Phase.RUNNING)
        models.warm()

    async def _start_clock(self, mux: Mux) -> None:
        """Ask for the server's time before anything is decided by it, and go on asking."""
        server_time = ServerTime(mux, self._clock, on_sample=self._look_at_clock)
        await server_time.try_sample()
        tasks = Tasks(self.lifecycle.fail)
        tasks.spawn(server_time.run(), name="server-time")
        self._closing.push_async_callback(tasks.cancel)

    def _look_at_clock(self) -> None:
        """Say once, and again when it changes, that this machine's clock is wrong. Jobs go by the server's."""
        offset_s = self._clock.offset_s
        if offset_s is not None:
            is_near = abs(offset_s) <= NEAR_S
            reason = None if is_near else f"this machine's clock is {shown_offset(offset_s)}: set it right (NTP)"
            self.lifecycle.health.set("clock", reason)

    async def _start_reloading(self, mux: Mux, replica: Replica) -> None:
        async def apply(policy: Policy) -> None:
            settings = self.settings.model_copy(update=dict(policy))
            # Longer queues and first budgets need something of the server: without it the policy is of no use.
            if largest_queue(settings) > largest_queue(self.settings) or has_budget(policy):
                await ensure(mux, settings)
            replica.apply(policy)
            self.settings = settings

        self._reloader = Reloader(
            store=replica.policies,
            read_file=lambda: (self._reread() if self._reread else self.settings).policy,
            path=self._watched,
            current=self.settings.policy,
            apply=apply,
            health=self.lifecycle.health,
            clock=self._clock,
            on_crash=self.lifecycle.fail,
        )
        await self._reloader.start()
        self._closing.push_async_callback(self._reloader.stop)

    @property
    def grace_s(self) -> float:
        """What is under way has so long when the end comes; `stop` takes little more."""
        return self._grace_s

    def reload(self) -> None:
        """Read the policy again (SIGHUP)."""
        if self._reloader is not None:
            self._reloader.reload()

    def _start_upkeep(self, mux: Mux) -> None:
        tasks = Tasks(self.lifecycle.fail)
        upkeep = Upkeep(
            mux,
            settings=lambda: self.settings,
            clock=self._clock,
            on_trouble=lambda reason: self.lifecycle.health.set("streams", reason),
            on_fatal=self.lifecycle.fail,
        )
        tasks.spawn(upkeep.run(), name="upkeep")
        self._closing.push_async_callback(tasks.cancel)

    async def _connect(self) -> Mux:
        connection = Connection(self.settings.nats, name=f"llm-sidecar {self.name}")
        self._connections["jobs"] = connection
        connection.on_state(self._on_nats_state)
        await connection.start()
        self._closing.push_async_callback(connection.close)
        mux = Mux(connection, timeout_s=self.settings.nats.request_timeout_s)
        await mux.start()
        self._closing.push_async_callback(mux.close)
        return mux

    async def _connect_for_requests(self) -> Connection:
        """What strangers send comes over a connection of its own, read as far as jobs leave time: the lease,
        heartbeats and JetStream's replies never stand behind it. Without it jobs are done all the same.
        """
        name = f"llm-sidecar {self.name} requests"
        connection = self._connections["requests"] = Connection(
            self.settings.nats, name=name, purpose="for requests", pace=self._pace
        )
        connection.on_state(self._on_requests_state)
        await connection.start(within_s=self.settings.nats.request_timeout_s)
        if not connection.is_connected:
            self._on_requests_state("disconnected")
        self._closing.push_async_callback(connection.close)
        return connection

    def _on_requests_state(self, state: State) -> None:
        if not self._is_closing:
            reason = f"the connection for requests is {state}: this replica answers none"
            self.lifecycle.health.set("requests", None if state == "connected" else reason)

    def _replica_state(self) -> ReplicaState:
        if self.lifecycle.phase in (Phase.CREATED, Phase.STARTING):
            return "starting"
        if self.lifecycle.phase is not Phase.RUNNING:
            return "draining"
        self._look_around()
        return "degraded" if self.lifecycle.health.is_degraded else "running"

    def _on_nats_state(self, state: State) -> None:
        if self._is_closing:
            return
        self.lifecycle.health.set("nats", None if state == "connected" else f"NATS is {state}")
        if state == "connected" and self._reloader is not None:
            self._reloader.hint()

    async def wait(self) -> None:
        """Until a drain was asked for, or the process cannot go on (`lifecycle.failure`)."""
        await self.lifecycle.wait_for_drain()

    async def stop(self) -> None:
        """Drain within the grace period, or at once when hurried, and close everything: one time for all of it."""
        if self._lingering is not None:
            self._lingering.cancel()
        if self.lifecycle.phase in (Phase.RUNNING, Phase.STARTING):
            self.lifecycle.enter(Phase.DRAINING)
        grace = Grace(SystemClock(), self._grace_s)
        # Beside the drain, so that a second signal shortens the grace period of one that has begun.
        hurrying = asyncio.create_task(self._hurry(grace))
        try:
            if self.replica is not None:
                await self.replica.drain(grace)
            self._is_closing = True
            await grace.farewell(self._closing.aclose(), what="closing connections")
        finally:
            hurrying.cancel()
            grace.close()
        self.lifecycle.enter(Phase.STOPPED)

    async def _hurry(self, grace: Grace) -> None:
        await self.lifecycle.wait_for_hurry()
        grace.hurry()

    async def _start_admin(self) -> None:
        routes = {
            "/startupz": AdminRoute(self._startupz),
            "/livez": AdminRoute(self._livez),
            "/readyz": AdminRoute(self._readyz),
            "/info": AdminRoute(self._info, audience="operator"),
            "/metrics": AdminRoute(self._metrics, audience="reader"),
            "/drain": AdminRoute(self._drain, ("POST",), "operator"),
        }
        settings = self.settings.admin
        guard = Guard(hosts=(socket.gethostname(), *settings.hosts), token=settings.token)
        self.admin = AdminServer(routes, host=settings.host, port=settings.port, guard=guard)
        await self.admin.start()
        self._closing.push_async_callback(self.admin.close)

    async def _livez(self, _: bool) -> Page:
        # That this is answered is the proof: the event loop turns.
        return _page({"status": "alive"})

    async def _startupz(self, _: bool) -> Page:
        started = self.lifecycle.phase not in (Phase.CREATED, Phase.STARTING)
        return _page({"phase": self.lifecycle.phase.value}, 200 if started else 503)

    def _look_around(self) -> None:
        if self.replica is not None:
            self.lifecycle.health.set("bedrock", self.replica.outage())
            self.lifecycle.health.set("documents", self.replica.jobs.disturbance)

    async def _readyz(self, is_operator: bool) -> Page:
        """Why it is degraded is for operators: reasons name models, settings, servers."""
        self._look_around()
        health = self.lifecycle.health
        status = "degraded" if health.is_degraded else "ready"
        is_ready = self.lifecycle.is_ready
        told = {"status": status if is_ready else self.lifecycle.phase.value}
        return _page({**told, "reasons": health.reasons} if is_operator else told, 200 if is_ready else 503)

    async def _info(self, _: bool) -> Page:
        replica = self.replica
        return _page(
            {
                "name": self.name,
                "version": __version__,
                "phase": self.lifecycle.phase.value,
                "degraded": self.lifecycle.health.reasons,
                "running": replica.requests.running if replica else 0,
                "is_scheduler": bool(replica and replica.cluster.term),
                "replicas": replica.cluster.members if replica else 0,
                "tasks": len(asyncio.all_tasks()),
                "subscriptions": sum(one.subscriptions for one in self._connections.values()),
                "requests": self._mux.waiting if self._mux else 0,
            }
        )

    async def _metrics(self, _: bool) -> Page:
        """Whoever may scrape may do so without end: what was made is shown again until ten times as long has
        passed as it took, so that no more than a tenth of the event loop goes into it."""
        if self.replica is None:
            return _page({"phase": self.lifecycle.phase.value}, 503)
        # Imported by the first scrape: 70 ms that a start need not wait for.
        from sidecar.telemetry import metrics

        began = time.monotonic()
        if self._scraped is None or began >= self._scraped[0]:
            scrape = metrics.Scrape(
                stats=self.replica.stats(),
                tally=self.replica.tally,
                lag_s=self._lag.take(),
                is_degraded=self.lifecycle.health.is_degraded,
                is_policy_current=self._reloader is None or self._reloader.is_ok,
                live_tools=self.replica.tools.live_count,
                foreign_writes=self._mux.foreign_writes.counts if self._mux is not None else {},
                misdelivered=sum(one.misdelivered.count for one in self._connections.values()),
                connected={name: one.is_connected for name, one in self._connections.items()},
                request_reading_s=(self._pace.read_s, self._pace.rested_s),
                clock_offset_s=self._clock.offset_s,
                restored=self.replica.jobs.restored,
                kept=self.replica.jobs.keeper.counts,
                holds=metrics.HoldFigures(*self.replica.troubles.figures),
                work=self._work.counts,
                standstills=self.replica.requests.standstills,
                endpoints=self._endpoints.figures if self._endpoints is not None else None,
            )
            page = Page(metrics.render(scrape), content_type=metrics.CONTENT_TYPE)
            self._scraped = (began + _SCRAPE_PART * (time.monotonic() - began), page)
        return self._scraped[1]

    async def _drain(self, _: bool) -> Page:
        """Take nothing new, go on serving, and wait for SIGTERM: the pod's application may still need answers.

        Where no SIGTERM comes the process ends by itself. Once the end was asked for, this hurries it.
        """
        replica = self.replica
        if replica is None or self.lifecycle.is_ending or self.lifecycle.phase not in _SERVING:
            self.lifecycle.request_drain()
        elif self._lingering is None:
            jobs = self.settings.jobs
            linger_s = jobs.drain_s if jobs.linger_s is None else jobs.linger_s
            self._lingering = asyncio.get_running_loop().call_later(linger_s, self._leave, linger_s)
            self.lifecycle.enter(Phase.DRAINING)
            await replica.step_back()
        return _page({"status": "draining", "running": replica.requests.running if replica else 0})

    def _leave(self, lingered_s: float) -> None:
        """What runs has had its grace, or the part of it that it has lingered for."""
        self._grace_s = max(0.0, self._grace_s - lingered_s)
        self.lifecycle.request_drain()


_SCRAPE_PART = 10
_SERVING = (Phase.RUNNING, Phase.DRAINING)


def has_budget(policy: Policy) -> bool:
    return any(tenant.budget_usd_per_day is not None for tenant in policy.tenants.values())


def _page(body: dict[str, Any], status: int = 200) -> Page:
    return Page(msgspec.json.encode(body), status)
