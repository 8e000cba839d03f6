"""What tenants spent, as counters of JetStream in stream `LLM_SPEND`: the server adds up, nobody reads first."""

import time

import msgspec

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.errors import BusRefused
from sidecar.models.plain import UNREADABLE
from sidecar.models.subjects import HEADER_MESSAGE_ID, SPEND_STREAM, Subjects, checked

INCREMENT = "Nats-Incr"
DAY_S = 86_400


class _Count(msgspec.Struct):
    val: str = "0"


_decode = msgspec.json.Decoder(_Count).decode


class NatsSpendLedger:
    """`SpendLedger` over a stream that counts (nats-server 2.12 or newer)."""

    def __init__(self, mux: Mux, subjects: Subjects, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._subjects = subjects
        self._reader = StreamReader(mux, SPEND_STREAM, is_replicated=is_replicated)

    async def add(self, tenant: str, day: int, micro_usd: int, *, call_id: str) -> int:
        headers = {INCREMENT: str(micro_usd), HEADER_MESSAGE_ID: call_id}
        ack = await self._mux.store(self._subject(tenant, day), b"", headers=headers)
        if ack.value is None:
            # A duplicate: its acknowledgement carries no value.
            return await self.total(tenant, day)
        return int(ack.value)

    async def total(self, tenant: str, day: int) -> int:
        subject = self._subject(tenant, day)
        found = await self._reader.last(subject)
        if found is None:
            return 0
        try:
            return int(_decode(found.payload).val)
        except (*UNREADABLE, ValueError) as e:
            raise BusRefused(f"what {subject} holds is no counter") from e

    def _subject(self, tenant: str, day: int) -> str:
        return self._subjects.spend(checked(tenant), date_of(day))


def date_of(day: int) -> str:
    """A day since 1970 as `yyyymmdd`."""
    return time.strftime("%Y%m%d", time.gmtime(day * DAY_S))
