"""What answers requests from the bus, and how it is answered. The rules of `sidecar.ports.bus` hold."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from sidecar.runtime.grace import Grace

Parked = Callable[[], AbstractContextManager[None]]


class Query(NamedTuple):
    """A request that came to an endpoint. `tokens` are the subject's tokens after the verb.

    Within `parked()` the handler only waits for others' work (a job, say), and counts as waiting: what it is
    bounded by is then not how many requests are answered at once.
    """

    verb: str
    tokens: tuple[str, ...]
    payload: bytes
    headers: Mapping[str, str]
    parked: Parked = nullcontext


class Reply(NamedTuple):
    payload: bytes
    headers: Mapping[str, str] = {}


Answer = Callable[[Query], Awaitable[Reply]]
AnswerMany = Callable[[Query], AsyncIterator[Reply]]


STREAM_READ_SEATS = 6
"""The seats of a request that reads batches of a stream, of some 4 MB each: all replies that are asked for at once
have to fit what the NATS server holds for one connection (64 MB), or it cuts it off."""


class Endpoint(NamedTuple):
    """One request/reply endpoint of the micro service. `subject` is below the root, with `*` for tokens.

    `quick`, where there is one, is asked first: it answers at once and without a task, or gives None. It never
    raises. `seats` is how many ordinary requests one of these counts for: those that read much of a stream count
    for several. `is_ask`: the answer takes as long as a job.
    """

    name: str
    subject: str
    answer: Answer | AnswerMany
    metadata: Mapping[str, str] = {}
    is_broadcast: bool = False
    quick: Callable[[Query], Reply | None] | None = None
    seats: int = 1
    is_ask: bool = False


class Endpoints(Protocol):
    """The micro service `llm-sidecar` (ADR-32). Tenants are answered in turn; what is too much of one is refused
    with code `rate_limited`.

    A `SidecarError` that a handler raises becomes an error reply; any other exception is logged and answered
    with code `internal`, without its text.
    """

    async def serve(self, endpoints: Sequence[Endpoint]) -> None: ...

    async def drain(self, grace: Grace) -> None:
        """Take no more asks: the jobs that they wait for would not run here any more."""
        ...

    async def stop(self, grace: Grace) -> None:
        """Take no more requests, and finish those under way within the grace."""
        ...
