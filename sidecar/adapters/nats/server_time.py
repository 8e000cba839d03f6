"""Asks the NATS server for the time: its stamp on an answer that it makes anyway."""

import logging
from collections.abc import Callable

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.errors import SidecarError
from sidecar.models.subjects import REQUEST_STREAM
from sidecar.runtime.server_clock import ServerClock

log = logging.getLogger(__name__)

EVERY_S = 2.0
# After a sample that contradicts those before.
SOON_S = 0.2


class ServerTime:
    """Keeps `clock` at the time of the server that leads the stream of requests: the one that stamps them.

    A sample is one `STREAM.INFO`, whose answer says when the leader made it (field `ts`, since 2.10).
    `on_sample` is called after each.
    """

    def __init__(self, mux: Mux, clock: ServerClock, *, on_sample: Callable[[], None] = lambda: None) -> None:
        self._reader = StreamReader(mux, REQUEST_STREAM, is_replicated=False)
        self._clock = clock
        self._on_sample = on_sample

    async def sample(self) -> None:
        """Take one sample. Raises BusUnavailable, BusRefused, NotFound."""
        sent = self._clock.steady()
        server_time = await self._reader.server_time()
        self._clock.observe(server_time, sent=sent, received=self._clock.steady())
        self._on_sample()

    async def try_sample(self) -> None:
        """The same; where it fails nothing is known that was not known before."""
        try:
            await self.sample()
        except SidecarError as e:
            log.debug("the server's time was not asked", extra={"error": e.message})

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.try_sample()
            await self._clock.sleep(SOON_S if self._clock.is_in_doubt else EVERY_S)
