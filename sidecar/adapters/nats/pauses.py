"""Operators' pauses in the KV bucket `LLM_CTL`, under one key that is written by compare-and-set."""

import logging

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.adapters.nats.genuine import is_by_replica
from sidecar.errors import InvalidRequest
from sidecar.models import codec
from sidecar.models.pauses import Pause, Pauses
from sidecar.models.subjects import CONTROL_BUCKET, HEADER_EXPECTED
from sidecar.ports.cluster import StoredPauses

log = logging.getLogger(__name__)

_SUBJECT = f"$KV.{CONTROL_BUCKET}.pauses"


class NatsPauseStore:
    """`PauseStore` over a bucket that keeps one revision.

    What a stranger wrote over the pauses is written over in turn with those that this process knew last.
    """

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._reader = StreamReader(mux, f"KV_{CONTROL_BUCKET}", is_replicated=is_replicated)
        self._known: tuple[Pause, ...] = ()

    async def load(self) -> StoredPauses:
        found = await self._reader.last(_SUBJECT)
        if found is None:
            return StoredPauses((), 0)
        if is_by_replica(found) and not found.is_tombstone:
            try:
                self._known = codec.decode(found.payload, Pauses).pauses
                return StoredPauses(self._known, found.seq)
            except InvalidRequest as e:
                log.warning("what stands for operators' pauses is none: %s", e.message)
        elif found.is_tombstone:
            # An operator's hand: nothing is paused.
            self._known = ()
            return StoredPauses((), found.seq)
        writes = self._mux.foreign_writes
        writes.met(CONTROL_BUCKET, subject=found.subject, seq=found.seq, payload=found.payload)
        return StoredPauses(self._known, await self.save(self._known, revision=found.seq))

    async def save(self, pauses: tuple[Pause, ...], *, revision: int) -> int:
        headers = {HEADER_EXPECTED: str(revision)}
        seq = (await self._mux.store(_SUBJECT, codec.encode(Pauses(pauses=pauses)), headers=headers)).seq
        self._known = pauses
        return seq
