"""The connection to NATS: opened when NATS is there, proved alive, and opened again for ever.

nats-py's own reconnect is off. One loop here does it all: dial (with secrets read afresh, so that rotated
passwords and renewed JWTs are found), subscribe everything again, watch, and on any loss dial the next server
after a bounded, jittered wait. Nothing is buffered while the connection is away: sending fails at once.
"""

import asyncio
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sidecar.adapters.nats.client.context import ConnectTarget, resolve
from sidecar.adapters.nats.client.errors import mapped
from sidecar.adapters.nats.client.message import check_size
from sidecar.adapters.nats.client.pace import Pace
from sidecar.adapters.nats.client.subscription import Handler, IsDropped, call_all
from sidecar.adapters.nats.client.subscription import Subscription as Subscription
from sidecar.adapters.nats.client.watchdog import jitter_s, watch
from sidecar.config.connection import ConnectionOptions, NatsEnvironment, nats_environment
from sidecar.errors import BusRefused, BusUnavailable, SidecarError
from sidecar.runtime.lifecycle import SystemClock
from sidecar.runtime.retry import RetryDelay
from sidecar.wire.matching import Denials, Misdelivered

if TYPE_CHECKING:
    from sidecar.adapters.nats.client.wire import WireClient

log = logging.getLogger(__name__)

State = Literal["disconnected", "connected", "closed"]

_REPORT_EVERY_S = 5.0
_STABLE_AFTER_S = 5.0
_LEAVE_WITHIN_S = 1.0


def _dialling() -> RetryDelay:
    """The pauses between dials: by chance, so that clients that lost one server do not return together."""
    return RetryDelay(SystemClock(), "connecting to NATS", next_s=0.1, longest_s=5.0, spread=0.5)


class Connection:
    """One connection, kept for the life of the process. `name` is shown in the server's monitoring, `purpose` in
    the log, for one that is not the only one. `pace`: how fast it is read, where strangers say what comes.
    """

    def __init__(
        self,
        settings: ConnectionOptions,
        *,
        name: str = "sidecar",
        purpose: str = "",
        pace: Pace | None = None,
        environment: Callable[[], NatsEnvironment] = nats_environment,
    ) -> None:
        self._settings = settings
        self._name = name
        self._purpose = f"{purpose} " if purpose else ""
        self._pace = pace
        self._environment = environment
        self._target: ConnectTarget | None = None
        self._wire: WireClient | None = None
        self._max_payload = 1 << 20
        self._subscriptions: dict[Subscription, None] = {}
        self._on_state: list[Callable[[State], None]] = []
        self._on_lost: list[Callable[[], None]] = []
        self._on_refused: list[Callable[[str], None]] = []
        self._denied = Denials()
        self._state: State = "disconnected"
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._server_info: Mapping[str, Any] = {}
        self._closing = asyncio.Event()
        self._servers: list[str] = []
        self._at = 0
        self._reported_at = float("-inf")
        self.last_error: SidecarError | None = None
        self.misdelivered = Misdelivered()

    @property
    def state(self) -> State:
        return self._state

    @property
    def is_connected(self) -> bool:
        return self._state == "connected"

    @property
    def target(self) -> ConnectTarget:
        if self._target is None:
            raise BusUnavailable("the connection to NATS has not been started")
        return self._target

    @property
    def inbox_prefix(self) -> str:
        return self.target.inbox_prefix

    @property
    def api_prefix(self) -> str:
        return self.target.api_prefix

    @property
    def max_payload(self) -> int:
        """The server's limit in bytes, headers included."""
        return self._max_payload

    @property
    def server_version(self) -> str:
        return str(self._server_info.get("version", ""))

    @property
    def server_info(self) -> Mapping[str, Any]:
        """What the server said about itself last."""
        return self._server_info

    @property
    def client(self) -> "WireClient":
        """The nats-py client of this moment, for what is rare; another one after each reconnect."""
        if self._wire is None:
            raise BusUnavailable("not connected to NATS")
        return self._wire

    def on_state(self, callback: Callable[[State], None]) -> None:
        """Call `callback` at each change of state, from the event loop."""
        self._on_state.append(callback)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the moment a connection breaks."""
        self._on_lost.append(callback)

    def on_refused(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the server's words when it denies a publish or a subscription."""
        self._on_refused.append(callback)

    def hold_while(self, is_full: Callable[[], bool]) -> None:
        """Read no further while nobody new could be taken in, where the connection has a pace."""
        if self._pace is not None:
            self._pace.is_full = is_full

    async def start(self, *, within_s: float | None = None) -> None:
        """Connect, however long it takes, or go on trying behind the caller's back after `within_s`. Raises
        StartupError only for settings that cannot be meant.
        """
        self._target = resolve(self._settings, self._environment())
        self._servers = list(self._target.servers)
        self._task = asyncio.create_task(self._keep(), name="nats-connection")
        connected = asyncio.ensure_future(self._connected.wait())
        try:
            both = {connected, self._task}
            await asyncio.wait(both, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
        except asyncio.CancelledError:
            # Whoever wanted the connection is gone: nobody else would ever stop the dialling.
            await self.close()
            raise
        finally:
            connected.cancel()

    async def close(self) -> None:
        """Send what is still to be sent and close for good."""
        self._closing.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # Its end first: a dial still under way would open a connection after the last one was hung up.
            await asyncio.wait({task})
        await self._hang_up()
        self._set_state("closed")

    def send(self, data: bytes) -> None:
        """Send protocol bytes soon. Raises BusUnavailable while disconnected, BusRefused (`payload_too_large`)."""
        wire = self._wire
        if wire is None:
            raise BusUnavailable("not connected to NATS")
        if len(data) > self._max_payload:
            check_size(data, self._max_payload)
        wire.send(data)

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the socket has not taken yet."""
        return self._wire.backlog if self._wire is not None else 0

    @property
    def is_congested(self) -> bool:
        """Whether so much waits to be sent that a sender should await `drained` first."""
        return self._wire is not None and self._wire.is_congested

    async def drained(self) -> None:
        if self._wire is not None:
            with mapped("sending"):
                await self._wire.drained()

    async def flush(self, *, timeout_s: float | None = None) -> None:
        """Wait until the server has handled all that was sent. Raises BusUnavailable."""
        limit = self._settings.request_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit):
                await self.client.ping()
        except TimeoutError as e:
            raise BusUnavailable(f"NATS did not answer a ping within {limit:g} s") from e

    async def subscribe(
        self,
        subject: str,
        handler: Handler,
        *,
        queue: str = "",
        expected: Container[bytes] = (),
        is_dropped: IsDropped | None = None,
    ) -> Subscription:
        """Give each message to `handler`, from the reading loop, now and after each reconnect.

        Messages that do not fit `subject` are dropped, counted in `misdelivered`, and logged now and then;
        `expected` are subjects that do, where some are so frequent that they are worth a look-up first;
        `is_dropped` says of which ones nobody wants to hear now. What `handler` raises is logged. When this
        returns while connected, the server knows of it.
        """
        subscription = self.listen(subject, handler, queue=queue, expected=expected, is_dropped=is_dropped)
        if subscription.sid is not None:
            try:
                await self.flush()
            except BusUnavailable:
                log.info("subscription will be made when NATS is back", extra={"subject": subject})
            except asyncio.CancelledError:
                # The caller does not get the subscription, so it could never end it.
                self.forget(subscription)
                raise
        return subscription

    def listen(
        self,
        subject: str,
        handler: Handler,
        *,
        queue: str = "",
        expected: Container[bytes] = (),
        is_dropped: IsDropped | None = None,
    ) -> Subscription:
        """As `subscribe`, at once: the server knows of it before it hears of anything that is sent afterwards."""
        if not subject or subject.split() != [subject] or len(queue.split()) > 1:
            raise BusRefused(f"{subject!r} is not a subject to subscribe to", code="invalid_request")
        subscription = Subscription(self, subject, queue, handler, expected=expected, is_dropped=is_dropped)
        self._subscriptions[subscription] = None
        if self._wire is not None:
            subscription.sid = self._wire.add(subject, queue, subscription.handler)
        return subscription

    @property
    def subscriptions(self) -> int:
        """How many there are."""
        return len(self._subscriptions)

    def forget(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)
        sid, subscription.sid = subscription.sid, None
        if sid is not None and self._wire is not None:
            self._wire.remove(sid)

    async def drain(self, subscriptions: Sequence[Subscription], *, timeout_s: float) -> None:
        """Hear no more of these, but all that the server has sent already. Raises nothing: then that is lost."""
        wire, sids = self._wire, [one.sid for one in subscriptions if one.sid is not None]
        for subscription in subscriptions:
            self._subscriptions.pop(subscription, None)
            subscription.sid = None
        if wire is None or not sids:
            return
        for sid in sids:
            wire.silence(sid)
        try:
            await self.flush(timeout_s=timeout_s)
        except BusUnavailable as e:
            log.info("NATS did not say that it sends no more: %s", e)
        finally:
            for sid in sids:
                wire.remove(sid)

    def reconnect(self) -> None:
        """Give this connection up and dial the next server, as the watchdog does."""
        self._lost.set()

    async def _keep(self) -> None:
        delay = _dialling()
        # Not `while True`: below 3.12 `wait_for`, which nats-py dials with, can swallow the cancellation.
        while not self._closing.is_set():
            try:
                if await self._live() >= _STABLE_AFTER_S:
                    # It was well until now: the next server is dialled at once.
                    delay = _dialling()
                    continue
            except SidecarError as e:
                self._report(e)
            except Exception:
                log.exception("connecting to NATS failed in a way that nobody thought of; trying again")
            await delay.clock.sleep(delay.take_s())

    async def _live(self) -> float:
        """One connection from its beginning to its end. Returns how long it lived, in seconds."""
        loop = asyncio.get_running_loop()
        try:
            await self._dial()
            if self._closing.is_set():
                return 0.0
            since = loop.time()
            wire = self.client
            reason = await watch(
                wire.ping, self._lost, every_s=self._settings.watchdog_s, heard=lambda: wire.pieces_read
            )
            log.warning("connection %sto NATS lost: %s", self._purpose, reason)
            return loop.time() - since
        finally:
            await self._hang_up()

    async def _dial(self) -> None:
        """One attempt at the next server. Raises SidecarError."""
        self._target = resolve(self._settings, self._environment())
        server = self._servers[self._at % len(self._servers)]
        self._at += 1
        lost = self._lost = asyncio.Event()
        wire = await self._open(
            server,
            on_lost=lambda: self._wire_lost(lost),
            on_refused=self._wire_refused,
            on_lame=lambda: self._wire_lame(lost),
        )
        self._server_info = wire.server_info
        self._max_payload = wire.max_payload
        self._servers.extend(url for url in wire.discovered if url not in self._servers)
        for subscription in self._subscriptions:
            subscription.sid = wire.add(subscription.subject, subscription.queue, subscription.handler)
        self._wire = wire
        self._reported_at = float("-inf")
        self.last_error = None
        log.info("connected %sto NATS %s at %s", self._purpose, self.server_version, wire.address)
        self._connected.set()
        self._set_state("connected")

    async def _open(self, server: str, **callbacks: Callable[..., None]) -> "WireClient":
        """A connected client of one server. Raises SidecarError."""
        from sidecar.adapters.nats.client.dial import dial

        timeout_s = self._settings.connect_timeout_s
        return await dial(self.target, server, name=self._name, timeout_s=timeout_s, pace=self._pace, **callbacks)

    def _wire_lost(self, lost: asyncio.Event) -> None:
        lost.set()
        if lost is self._lost and self._wire is not None:
            self._wire = None
            self._connected.clear()
            for subscription in self._subscriptions:
                subscription.sid = None
            call_all(self._on_lost)
            self._set_state("disconnected")

    def _wire_lame(self, lost: asyncio.Event) -> None:
        """The server is about to stop: leave it for another, if there is one, before it throws us out."""
        if len(self._servers) > 1:
            log.info("NATS server goes lame duck: moving to another one")
            asyncio.get_running_loop().call_later(jitter_s(_LEAVE_WITHIN_S), lost.set)

    def _wire_refused(self, text: str) -> None:
        self._denied.note(text)
        call_all(self._on_refused, text)

    async def _hang_up(self) -> None:
        wire = self._wire
        if wire is not None:
            await wire.hang_up()

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._state = state
            call_all(self._on_state, state)

    def _report(self, error: SidecarError) -> None:
        """Log why there is no connection, at once and then every few seconds."""
        self.last_error = error
        now = asyncio.get_running_loop().time()
        if now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            log.warning("waiting %sfor NATS at %s: %s", self._purpose, ", ".join(self._shown_servers()), error)

    def _shown_servers(self) -> list[str]:
        """Addresses without the secrets that a URL may carry."""
        return [url.rpartition("@")[2] for url in self._servers]
