"""Streams that are deleted under the running process are made anew, or the process ends and says why not."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.provision import ensure_stream, wanted_streams
from sidecar.adapters.nats.streams.topology import StreamSpec
from sidecar.config.settings import Settings
from sidecar.errors import StartupError
from sidecar.ports.bus import Clock
from sidecar.runtime.lifecycle import logged

log = logging.getLogger(__name__)

LOOK_S = 3.0
# Between the first time that a stream is not there and the second, which is believed.
AGAIN_S = 1.0
# Messages that may have been stored between the last look and the deletion.
SEQUENCE_GAP = 1_000_000
FULL_SHARE = 0.95


def is_full(info: Mapping[str, Any]) -> bool:
    """Whether a stream that refuses new messages is close to its bytes, by `STREAM.INFO`."""
    limit: int = info["config"].get("max_bytes", -1)
    held: int = info["state"]["bytes"]
    return limit > 0 and info["config"].get("discard") == "new" and held > FULL_SHARE * limit


@dataclass(slots=True, eq=False)
class Upkeep:
    """Looks after the streams while the process runs.

    A stream that is made anew goes on with sequences that the old one never had: what is remembered of the old
    one (places in the queue, revisions of documents) then fits nothing, instead of something else. `on_trouble`
    is told what is wrong, and None when it is well again; `on_fatal` what cannot be mended from here.
    """

    mux: Mux
    settings: Callable[[], Settings]
    clock: Clock
    on_trouble: Callable[[str | None], None]
    on_fatal: Callable[[BaseException], None]

    _last_seq: dict[str, int] = field(default_factory=dict, init=False)
    _full: list[str] = field(default_factory=list, init=False)

    async def run(self) -> None:
        """Until it is cancelled, or has called `on_fatal`."""
        while True:
            await self.clock.sleep(LOOK_S)
            with logged("looking after the streams"):
                try:
                    await self.look()
                except StartupError as e:
                    self.on_fatal(e)
                    return

    async def look(self) -> None:
        """Make anew what is missing. Raises StartupError when that is not possible, BusUnavailable."""
        try:
            missing = await self._missing()
            if missing:
                await self.clock.sleep(AGAIN_S)
                missing = await self._missing()
        except StartupError as e:
            # A server that is too old leads JetStream now, as can be while a cluster is being updated: what is
            # there goes on working, and the next look may find another leader.
            self.on_trouble(e.message)
            return
        if not missing:
            self.on_trouble(f"full: {', '.join(self._full)}" if self._full else None)
            return
        names = ", ".join(missing)
        log.error("streams were deleted, and what they held is lost: making them anew", extra={"streams": names})
        self.on_trouble(f"deleted under way, being made anew: {names}")
        adopt = self.settings().nats.adopt
        for name, spec in missing.items():
            await ensure_stream(self.mux, self._going_on(name, spec), adopt=adopt)
        self.on_trouble(None)

    async def _missing(self) -> Mapping[str, StreamSpec]:
        missing = {}
        self._full.clear()
        for spec in await wanted_streams(self.mux, self.settings()):
            try:
                info = await self.mux.api(f"STREAM.INFO.{spec.name}")
            except NotFound:
                missing[spec.name] = spec
            else:
                self._last_seq[spec.name] = max(self._last_seq.get(spec.name, 0), info["state"]["last_seq"])
                if is_full(info):
                    self._full.append(spec.name)
        return missing

    def _going_on(self, name: str, spec: StreamSpec) -> StreamSpec:
        first_seq = self._last_seq.get(name, 0) + SEQUENCE_GAP
        return StreamSpec(name, {**spec.config, "first_seq": first_seq})
