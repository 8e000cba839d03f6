"""A stream that botocore reads in a thread, for the event loop to consume."""

import asyncio
import http.client
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from botocore import eventstream
from botocore.exceptions import EventStreamError
from urllib3.exceptions import HTTPError

from sidecar.adapters.bedrock.errors import provider_error, with_original
from sidecar.adapters.bedrock.mending import NotMendable, has_halves, mended_event
from sidecar.adapters.bedrock.sockets import CallAborted, CallSlot
from sidecar.adapters.bedrock.transport import BrokenStream
from sidecar.adapters.bedrock.wire import StreamEvent, convert_event
from sidecar.errors import CallTimeout, SidecarError

MAX_EVENTS_AHEAD = 256
# By what botocore's parsers fail where JSON is not of the shape that they take for granted.
UNREADABLE = (AttributeError, TypeError, ValueError, LookupError, RecursionError)
_STREAM_ERRORS = (HTTPError, http.client.HTTPException, OSError, eventstream.ParserError)


class ThreadReader:
    """A stream that a thread reads and the event loop consumes, at most `MAX_EVENTS_AHEAD` events apart."""

    def __init__(self, slot: CallSlot) -> None:
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[str, Any]] = deque()
        self._has_news = asyncio.Event()
        self._room = threading.Semaphore(MAX_EVENTS_AHEAD)
        self._failure: CallTimeout | None = None
        self._pending: Exception | None = None
        self._request_id: str | None = None
        self._thread: asyncio.Future[None] | None = None
        self.opened: asyncio.Future[tuple[str, str | None]] = self._loop.create_future()

    def start(self, executor: ThreadPoolExecutor, open_stream: Callable[[], Mapping[str, Any]]) -> None:
        self._thread = self._loop.run_in_executor(executor, self._pump, open_stream)
        self._thread.add_done_callback(self._on_end)

    async def read(self) -> Sequence[StreamEvent]:
        if self._pending is not None:
            raise self._pending
        while not self._events and self._failure is None and not self._is_ended:
            self._has_news.clear()
            await self._has_news.wait()
        if self._failure is not None:
            raise self._failure
        events: list[StreamEvent] = []
        while self._events and self._pending is None:
            self._convert(*self._events.popleft(), events)
        if not events:
            self._raise_trouble()
        return events

    def fail(self, error: CallTimeout) -> None:
        self._failure = error
        self._slot.abort()
        self._has_news.set()

    async def close(self) -> None:
        if not self._is_ended:
            self._slot.abort()
        self._room.release(MAX_EVENTS_AHEAD)

    @property
    def _is_ended(self) -> bool:
        return self._thread is not None and self._thread.done()

    def _convert(self, kind: str, parsed: Any, events: list[StreamEvent]) -> None:
        self._room.release()
        try:
            try:
                event = convert_event(kind, parsed)
                events.append(mended_event(kind, parsed) if has_halves(event) else event)
            except msgspec.ValidationError:
                events.append(mended_event(kind, parsed))
        except NotMendable as e:
            self._pending = BrokenStream(
                f"an event is not what its type says ({e})", is_garbled=True, request_id=self._request_id
            )
            if not events:
                raise self._pending from e

    def _raise_trouble(self) -> None:
        error = self._thread.exception() if self._thread is not None else None
        if isinstance(error, EventStreamError):
            raise stream_error_from(error, self._request_id) from error
        if isinstance(error, _STREAM_ERRORS):
            is_garbled = isinstance(error, eventstream.ParserError)
            raise BrokenStream(
                type(error).__name__, said=str(error), is_garbled=is_garbled, request_id=self._request_id
            ) from error
        if error is not None:
            raise error

    def _on_end(self, thread: "asyncio.Future[None]") -> None:
        error = None if thread.cancelled() else thread.exception()
        if not self.opened.done():
            self.opened.set_exception(error or CallAborted())
        self._has_news.set()

    def _pump(self, open_stream: Callable[[], Mapping[str, Any]]) -> None:
        """In the thread: raises whatever ends the stream but its end."""
        with self._slot.hold():
            response = open_stream()
            stream = response["stream"]
            try:
                self._tell(self._opened, response["ResponseMetadata"])
                for event in _events(stream):
                    self._room.acquire()
                    if self._slot.is_aborted:
                        return
                    self._tell(self._add, event)
            finally:
                stream.close()

    def _tell(self, handler: Callable[[Any], None], value: Any) -> None:
        # The loop may be gone when a process ends without closing its client.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(handler, value)

    def _opened(self, metadata: Mapping[str, Any]) -> None:
        headers = metadata.get("HTTPHeaders", {})
        self._request_id = metadata.get("RequestId")
        if not self.opened.done():
            self.opened.set_result((headers.get("content-type", ""), self._request_id))

    def _add(self, event: Mapping[str, Any]) -> None:
        self._events.extend(event.items())
        self._has_news.set()


def _events(stream: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """What botocore reads. Raises its errors, and BrokenStream for what it cannot read."""
    events = iter(stream)
    while True:
        try:
            event = next(events)
        except StopIteration:
            return
        except UNREADABLE as e:
            raise BrokenStream("an event is not what its type says", is_garbled=True) from e
        yield event


def stream_error_from(error: EventStreamError, request_id: str | None) -> SidecarError:
    """An exception frame as botocore raised it."""
    said = error.response.get("Error", {})
    found = provider_error(
        str(said.get("Code", "")), str(said.get("Message", "")), status=None, request_id=request_id
    )
    return with_original(found, error.response)
