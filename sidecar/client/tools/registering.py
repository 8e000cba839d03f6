"""Keeping one tool registered, and subscribed before it is."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from nats.aio.msg import Msg

from sidecar.client.bus import Bus
from sidecar.client.errors import pause_after
from sidecar.client.tools.serving import ToolServer
from sidecar.client.tools.stopping import ProviderEnd
from sidecar.errors import BusUnavailable, Permanent, SidecarError, Temporary
from sidecar.models.codec import encode
from sidecar.models.plain import UNREADABLE
from sidecar.models.subjects import Subjects, call_cancelled
from sidecar.models.tool import ToolDeregistration, ToolRegistered

log = logging.getLogger(__name__)

QUEUE = "tool"
_FIRST_PAUSE_S = 0.5
_LAST_PAUSE_S = 10.0
_PROBE_S = 1.0


@dataclass(eq=False, slots=True)
class CallListener:
    """Where calls, or words of cancellation, come in; kept by the bus."""

    subject: str
    queue: str
    take: Callable[[Msg], None]
    on_dirty: Callable[[], None]
    error: SidecarError | None = None

    def receive(self, message: Msg) -> bool:
        self.take(message)
        return True

    def mark_dirty(self) -> None:
        self.on_dirty()

    def fail(self, error: SidecarError) -> None:
        self.error = error
        self.on_dirty()


class Registrar:
    """Registers a tool, renews it at a third of its ttl and after each reconnect, for as long as `keep` runs.

    It listens on the derived call subject before it registers, so that the first caller is heard; the server runs
    nothing until the registration is accepted.
    """

    def __init__(
        self,
        server: ToolServer,
        bus: Bus,
        *,
        subjects: Subjects,
        scope: str,
        request_timeout_s: float,
        turns: asyncio.Semaphore,
    ) -> None:
        """`turns` bounds how many tools of a provider register at once."""
        self._server = server
        self._tool = server.tool
        self._bus = bus
        self._subjects = subjects
        self._scope = scope
        self._request_timeout_s = request_timeout_s
        self._turns = turns
        self._listeners: list[CallListener] = []
        self._subject = subjects.call(scope, self._tool.name, self._tool.version)
        self._wake = asyncio.Event()
        self._is_leaving = False
        self._trouble: SidecarError | None = None
        self.accepted = asyncio.Event()
        self.tried: asyncio.Future[SidecarError | None] = asyncio.get_running_loop().create_future()
        """Done after the first try: the refusal, or None when it was accepted or the sidecar is away."""

    async def keep(self) -> None:
        """Runs until `leave` was called or the client is closed."""
        try:
            await self._keep()
        finally:
            if not self.tried.done():
                self.tried.set_result(BusUnavailable("the client was closed"))

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        third_s = self._tool.registration.ttl_s / 3
        while not self._is_leaving:
            self._wake.clear()
            refusal: SidecarError | None = None
            try:
                async with self._turns:
                    await self._register()
            except Temporary as e:
                if self._bus.is_closed:
                    return
                self._missed(e)
                delay_s, pause_s = max(pause_s, pause_after(e)), min(pause_s * 2, _LAST_PAUSE_S, third_s)
            except SidecarError as e:
                refusal = e
                await self._refused(e)
                delay_s = third_s
            else:
                # Providers that started together must not renew together for ever.
                delay_s, pause_s = third_s * random.uniform(0.8, 1.0), _FIRST_PAUSE_S  # noqa: S311
            if not self.tried.done():
                self.tried.set_result(refusal)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()

    def leave(self) -> None:
        """End `keep` at its next step. Cancelling it is not enough: nats-py's requests may swallow that."""
        self._is_leaving = True
        self._wake.set()

    async def end(self, end: ProviderEnd) -> None:
        """Deregister unless other providers serve this version, take no new calls, and let the others finish."""
        if self.accepted.is_set() and self._bus.is_connected:
            await self._deregister(end)
        for listener in self._listeners:
            if listener.queue:
                await self._bus.drain(listener, timeout_s=end.limit_s(self._request_timeout_s))
        await self._server.finish(end)
        await self.unlisten()

    async def unlisten(self) -> None:
        while self._listeners:
            await self._bus.unsubscribe(self._listeners.pop())

    async def _register(self) -> None:
        await self._listen()
        reply = await self._bus.request(
            self._subjects.endpoint("tools", self._scope, "register"),
            encode(self._tool.registration),
            timeout_s=self._request_timeout_s,
        )
        try:
            registered = msgspec.json.decode(reply.data, type=ToolRegistered)
        except UNREADABLE as e:
            raise Permanent(f"the reply to a registration cannot be read ({e}): update the client") from e
        if registered.subject != self._subject:
            await self.unlisten()
            self._subject = registered.subject
            await self._listen()
        self._server.open()
        if not self.accepted.is_set() or self._trouble is not None:
            log.info("tool %s@%s is registered in scope %s", self._tool.name, self._tool.version, self._scope)
        self._trouble = None
        self.accepted.set()

    async def _listen(self) -> None:
        """Subscribe, and know that the server has it."""
        if not self._listeners:
            for subject, queue, take in (
                (call_cancelled(self._subject), "", self._cancel),
                (self._subject, QUEUE, self._server.receive),
            ):
                listener = CallListener(subject, queue, take, self._wake.set)
                await self._bus.listen(listener)
                self._listeners.append(listener)
        await self._bus.flush(timeout_s=self._request_timeout_s)
        for listener in self._listeners:
            if listener.error is not None and listener.queue:
                error = listener.error
                await self.unlisten()
                raise error

    def _cancel(self, message: Msg) -> None:
        if message.reply:
            # Another provider asks whether it was the last one.
            self._server.answer_probe(message.reply)
        self._server.cancel(message)

    async def _deregister(self, end: ProviderEnd) -> None:
        """Registrations are of versions, not of providers: the last one to leave takes it back."""
        payload = encode(ToolDeregistration(name=self._tool.name, version=self._tool.version))
        try:
            if not await self._is_last(end):
                return
            await self._bus.request(
                self._subjects.endpoint("tools", self._scope, "deregister"),
                payload,
                timeout_s=end.limit_s(self._request_timeout_s),
            )
        except SidecarError as e:
            log.warning("tool %s@%s was not deregistered: %s", self._tool.name, self._tool.version, e)

    async def _is_last(self, end: ProviderEnd) -> bool:
        """Whether no other provider of this library listens. One that may not ask counts as the last."""
        for listener in [one for one in self._listeners if not one.queue]:
            self._listeners.remove(listener)
            await self._bus.unsubscribe(listener)
        await self._bus.flush(timeout_s=end.limit_s(self._request_timeout_s))
        try:
            await self._bus.request(call_cancelled(self._subject), b"", timeout_s=end.limit_s(_PROBE_S))
        except SidecarError:
            return True
        else:
            return False
        finally:
            listener = CallListener(call_cancelled(self._subject), "", self._cancel, self._wake.set)
            await self._bus.listen(listener)
            self._listeners.append(listener)

    def _missed(self, error: Temporary) -> None:
        if self._trouble is None:
            what = "is not renewed" if self.accepted.is_set() else "is not registered yet"
            log.warning("tool %s@%s %s, trying on: %s", self._tool.name, self._tool.version, what, error)
        self._trouble = error

    async def _refused(self, error: SidecarError) -> None:
        # The first refusal is raised to whoever starts the provider.
        if self.tried.done() and (self._trouble is None or isinstance(self._trouble, Temporary)):
            where = error.details.get("path", "")
            log.error("tool %s@%s was refused: %s %s", self._tool.name, self._tool.version, where, error)
        self._trouble = error
        self.accepted.clear()
        self._server.close("the registration of this tool was refused")
        await self.unlisten()
