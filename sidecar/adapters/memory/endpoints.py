"""The micro service in memory: twin of `adapters.nats.micro`."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.nats.service import error_reply
from sidecar.errors import SidecarError
from sidecar.ports.bus import Endpoint, Query, Reply
from sidecar.runtime.grace import Grace

log = logging.getLogger(__name__)


class MemoryEndpoints:
    """`Endpoints` twin. Ask it by `bus.request(subject, payload)` or `bus.request_many`."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica
        self._stops: list[tuple[Endpoint, Callable[[], None]]] = []

    async def serve(self, endpoints: Sequence[Endpoint]) -> None:
        for endpoint in endpoints:
            pattern = f"{self._bus.subjects.root}.{endpoint.subject}"
            respond = _Answering(endpoint, self._bus.subjects.root)
            stop = self._bus.serve(self._replica, pattern, respond, is_broadcast=endpoint.is_broadcast)
            self._stops.append((endpoint, stop))

    async def drain(self, grace: Grace) -> None:
        for endpoint, stop in self._stops:
            if endpoint.is_ask:
                stop()

    async def stop(self, grace: Grace) -> None:
        while self._stops:
            self._stops.pop()[1]()


class _Answering:
    def __init__(self, endpoint: Endpoint, root: str) -> None:
        self._endpoint = endpoint
        self._root = root

    async def __call__(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        verb, *tokens = subject.removeprefix(self._root + ".").split(".")
        query = Query(verb, tuple(tokens), payload, headers)
        if self._endpoint.quick is not None and (quick := self._endpoint.quick(query)) is not None:
            yield quick
            return
        try:
            answer = self._endpoint.answer(query)
            if isinstance(answer, AsyncIterator):
                async for reply in answer:
                    yield reply
            else:
                yield await answer
        except SidecarError as e:
            yield error_reply(e)
        except Exception:
            log.exception("endpoint %s failed", self._endpoint.name)
            yield error_reply(SidecarError("the sidecar failed to answer; its log says more"))
