"""What happened: one record a call, and counters."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(slots=True)
class CallRecord:
    """One call. Times are seconds since 1970; `aborted_at` is when the client left before the end.

    The `charged_…` are what would stand on the bill, in tokens: nothing for what was refused, the usage for what
    was answered, what was read and sent for a stream that was broken off. Of 408 and 424 nobody says whether they
    are billed: the prompt is charged, as the dearer case.
    """

    number: int
    request_id: str
    operation: str
    model_id: str
    region: str
    tenant: str
    started_at: float
    body: bytes = field(default=b"", repr=False)
    status: int = 0
    error_type: str | None = None
    stop_reason: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    sent_tokens: int = 0
    sent_bytes: int = 0
    finished_at: float | None = None
    aborted_at: float | None = None
    retry_attempt: str | None = None
    charged_input_tokens: int = 0
    charged_output_tokens: int = 0
    charged_cache_read_tokens: int = 0
    charged_cache_write_tokens: int = 0

    @property
    def request(self) -> dict[str, Any]:
        """The body that was sent, decoded; raises msgspec.DecodeError where it was no JSON."""
        decoded: dict[str, Any] = msgspec.json.decode(self.body)
        return decoded

    def as_dict(self, *, with_body: bool) -> dict[str, Any]:
        """JSON-able form, with the decoded body if asked for."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "body"}
        if with_body:
            plain["request"] = self.request
        return plain


class Journal:
    """The last calls and running totals. Holds `capacity` records with their bodies."""

    def __init__(self, capacity: int) -> None:
        self.calls: deque[CallRecord] = deque(maxlen=capacity)
        self.counters: Counter[str] = Counter()
        self.by_model: dict[str, Counter[str]] = {}
        self.by_tenant: dict[str, Counter[str]] = {}
        self.active: dict[int, CallRecord] = {}
        self.max_active = 0
        self._number = 0
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def open(
        self,
        *,
        request_id: str,
        operation: str,
        model_id: str,
        region: str,
        body: bytes,
        retry_attempt: str | None,
    ) -> CallRecord:
        """A call begins."""
        self._number += 1
        record = CallRecord(
            number=self._number,
            request_id=request_id,
            operation=operation,
            model_id=model_id,
            region=region,
            tenant="",
            started_at=time.time(),
            body=body,
            retry_attempt=retry_attempt,
        )
        self.calls.append(record)
        self.active[record.number] = record
        self.max_active = max(self.max_active, len(self.active))
        self._wake()
        return record

    def close(self, record: CallRecord, *, is_aborted: bool) -> None:
        """A call has ended, one way or another; later calls of this for the same record do nothing."""
        if self.active.pop(record.number, None) is None:
            return
        record.finished_at = time.time()
        if is_aborted:
            record.aborted_at = record.finished_at
        facts = self._facts(record)
        _add(self.counters, facts)
        _add(self.by_model.setdefault(record.model_id, Counter()), facts)
        if record.tenant:
            _add(self.by_tenant.setdefault(record.tenant, Counter()), facts)
        self._wake()

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Return once `is_true()` was so: it is asked now, and at the moment that any call begins or ends."""
        if is_true():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((is_true, waiter))
        await waiter

    def _wake(self) -> None:
        if not self._waiters:
            return
        still_waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        for is_true, waiter in self._waiters:
            if waiter.done():
                continue
            if is_true():
                waiter.set_result(None)
            else:
                still_waiting.append((is_true, waiter))
        self._waiters = still_waiting

    def snapshot(self) -> dict[str, Any]:
        """All counters, JSON-able."""
        return {
            "total": dict(self.counters),
            "active": len(self.active),
            "max_active": self.max_active,
            "by_model": {name: dict(counter) for name, counter in self.by_model.items()},
            "by_tenant": {name: dict(counter) for name, counter in self.by_tenant.items()},
        }

    def reset(self) -> None:
        """Forget all but the calls in flight."""
        self.calls.clear()
        for counters in (self.counters, self.by_model, self.by_tenant):
            counters.clear()
        self.max_active = len(self.active)

    @staticmethod
    def _facts(record: CallRecord) -> dict[str, int]:
        facts = {
            "calls": 1,
            record.operation: 1,
            "input_tokens": record.input_tokens,
            "output_tokens": record.output_tokens,
            "charged_input_tokens": record.charged_input_tokens,
            "charged_output_tokens": record.charged_output_tokens,
        }
        if record.aborted_at is not None:
            facts["aborted"] = 1
        elif record.error_type is None:
            facts["completed"] = 1
        if record.error_type is not None:
            facts[record.error_type] = 1
        return facts


def _add(counter: Counter[str], facts: dict[str, int]) -> None:
    """As `Counter.update`, which is several times slower for a handful of keys."""
    for name, number in facts.items():
        counter[name] += number
