"""Checkpoints in the KV bucket `LLM_CTL`."""

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_no_acknowledgement
from sidecar.errors import InvalidRequest
from sidecar.models.subjects import CONTROL_BUCKET, is_name

_ROOT = f"$KV.{CONTROL_BUCKET}.checkpoint."


class NatsCheckpoints:
    """`Checkpoints` over a KV bucket: key `checkpoint.<name>`."""

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        reader = StreamReader(mux, f"KV_{CONTROL_BUCKET}", is_replicated=is_replicated)
        self._reader = GenuineReader(
            reader, bucket=CONTROL_BUCKET, writes=mux.foreign_writes, is_genuine=is_no_acknowledgement
        )

    async def save(self, name: str, payload: bytes) -> None:
        await self._mux.store(_subject(name), payload)

    async def load(self, name: str) -> bytes | None:
        found = await self._reader.last(_subject(name))
        return None if found is None or found.is_tombstone else found.payload


def _subject(name: str) -> str:
    if not is_name(name):
        raise InvalidRequest(f"{name!r} does not name a checkpoint")
    return _ROOT + name
