"""A connection that answers by a script, so that a task can be cancelled between any two of its steps."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from sidecar.adapters.nats.client.connection import Connection, State, Subscription
from sidecar.adapters.nats.client.message import decode_headers
from sidecar.config.settings import NatsSettings

Handler = Callable[[bytes, bytes, bytes, bytes], None]
_MAX_STEPS = 60


class Sent(NamedTuple):
    subject: str
    headers: dict[str, str]
    payload: bytes


class Answer(NamedTuple):
    """One reply: its header block, as `NATS/1.0 …`, and its payload."""

    headers: bytes
    payload: bytes


Script = Callable[[Sent], Sequence[Answer]]


class ScriptedConnection(Connection):
    """Each reply comes one turn of the loop after the one before it."""

    def __init__(self, script: Script) -> None:
        super().__init__(NatsSettings())
        self._script = script
        self.sent: list[Sent] = []
        self.open: set[Subscription] = set()
        self.states: list[Callable[[State], None]] = []

    @property
    def is_connected(self) -> bool:
        return True

    @property
    def inbox_prefix(self) -> str:
        return "_INBOX"

    @property
    def api_prefix(self) -> str:
        return "$JS.API"

    def on_state(self, callback: Callable[[State], None]) -> None:
        self.states.append(callback)

    def send(self, data: bytes) -> None:
        line, _, rest = data.partition(b"\r\n")
        verb, subject, *middle = line.decode().split()
        sizes = middle[-2:] if verb == "HPUB" else ["0", middle[-1]]
        reply = middle[0] if len(middle) > (2 if verb == "HPUB" else 1) else ""
        split, total = int(sizes[0]), int(sizes[1])
        sent = Sent(subject, decode_headers(rest[:split]), rest[split:total])
        self.sent.append(sent)
        self._answer(reply, list(self._script(sent)))

    def _answer(self, reply: str, answers: list[Answer]) -> None:
        def next_one() -> None:
            if answers:
                answer = answers.pop(0)
                self.deliver(reply, answer.payload, answer.headers)
                asyncio.get_running_loop().call_soon(next_one)

        asyncio.get_running_loop().call_soon(next_one)

    def deliver(self, subject: str, payload: bytes, headers: bytes = b"") -> None:
        for subscription in list(self.open):
            pattern = subscription.subject
            if subject == pattern or (pattern.endswith("*") and subject.startswith(pattern[:-1])):
                subscription.handler(subject.encode(), b"", headers, payload)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "", **_: Any) -> Subscription:
        subscription = self.listen(subject, handler, queue=queue)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.forget(subscription)
            raise
        return subscription

    def listen(self, subject: str, handler: Handler, *, queue: str = "", **_: Any) -> Subscription:
        subscription = Subscription(self, subject, queue, handler)
        self.open.add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        self.open.discard(subscription)


async def cancel_at_each_step(
    start: Callable[[], Coroutine[Any, Any, object]], check: Callable[[], object]
) -> int:
    """Run what `start` makes again and again, cancelled one turn of the loop later each time, until it ends by
    itself. `check` is called after each, when nothing is left to run. Returns how often it was cancelled.
    """
    for steps in range(_MAX_STEPS):
        task = asyncio.ensure_future(start())
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            task.result()
            check()
            return steps
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), f"cancelled after {steps} steps, it ended with {task!r}"
        for _ in range(_MAX_STEPS):
            await asyncio.sleep(0)
        check()
    raise AssertionError(f"not done after {_MAX_STEPS} steps")
