"""Calls by botocore's own client in threads: the fallback (`bedrock.transport = "boto3"`) and the oracle in tests.

Slower and larger than `http_transport`, but nothing in it was written here: serialising, signing, sending and
parsing are botocore's. Retries are off, since it would resend a call whose answer is being paid for.
"""

import asyncio
import http.client
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from botocore import eventstream
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EventStreamError,
    InvalidEndpointConfigurationError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from sidecar.adapters.bedrock.credentials import LOCAL_KEYS, Bearer, CredentialSource, credential_error
from sidecar.adapters.bedrock.endpoints import SERVICE, parse_endpoint, require_tls
from sidecar.adapters.bedrock.errors import http_error_from, provider_error
from sidecar.adapters.bedrock.sockets import CallAborted, CallSlot, report_sockets
from sidecar.adapters.bedrock.transport import (
    EVENT_STREAM,
    BrokenStream,
    EventReader,
    Target,
    not_a_stream,
)
from sidecar.adapters.bedrock.watchdog import call_timeout
from sidecar.adapters.bedrock.wire import StreamEvent, convert_event
from sidecar.errors import AccessDenied, CallTimeout, InvalidRequest, ModelFailed, ModelUnavailable, SidecarError
from sidecar.models.call import CallLimits

T = TypeVar("T")

# Backstop for threads; the limits of a call are kept on the event loop, which closes the socket.
READ_TIMEOUT_S = 3600
MAX_EVENTS_AHEAD = 256
_CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    MetadataRetrievalError,
)
_STREAM_ERRORS = (HTTPError, http.client.HTTPException, OSError, eventstream.ParserError)


class Boto3Transport:
    """`open_session` gives botocore's session; it and the clients are made in threads, one client for a region."""

    def __init__(
        self,
        *,
        open_session: Callable[[], Any],
        credentials: CredentialSource,
        endpoint_url: str | None,
        max_connections: int,
    ) -> None:
        self._open_session = open_session
        self._credentials = credentials
        self._endpoint_url = endpoint_url
        self._max_connections = max_connections
        self._executor = ThreadPoolExecutor(max_connections, thread_name_prefix="bedrock")
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    async def converse(self, target: Target, params: Mapping[str, Any], limits: CallLimits) -> Mapping[str, Any]:
        slot = CallSlot(limits.connect_s)
        try:
            async with asyncio.timeout(limits.total_s):
                make_client = await self._client_maker(target.region)

                def call() -> Mapping[str, Any]:
                    client = make_client()
                    with slot.hold():
                        response: Mapping[str, Any] = client.converse(modelId=target.invoke_id, **params)
                        return response

                return await self._in_thread(call, slot)
        except TimeoutError as e:
            raise call_timeout("total", limits.total_s) from e
        except (BotoCoreError, ClientError, ResponseParserError) as e:
            raise _translate(e, slot) from e

    async def open_stream(self, target: Target, params: Mapping[str, Any], limits: CallLimits) -> EventReader:
        slot = CallSlot(limits.connect_s)
        nearest = min((limits.first_token_s, "first_token"), (limits.total_s, "total"))
        try:
            async with asyncio.timeout(nearest[0]):
                make_client = await self._client_maker(target.region)
                reader = _ThreadReader(slot)
                reader.start(
                    self._executor,
                    lambda: make_client().converse_stream(modelId=target.invoke_id, **params),
                )
                try:
                    content_type, request_id = await reader.opened
                except BaseException:
                    await reader.close()
                    raise
        except TimeoutError as e:
            raise call_timeout(nearest[1], nearest[0]) from e
        except (BotoCoreError, ClientError, ResponseParserError) as e:
            raise _translate(e, slot) from e
        if content_type.split(";", 1)[0] != EVENT_STREAM:
            await reader.close()
            raise not_a_stream(content_type, request_id)
        return reader

    async def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        for client in self._clients.values():
            client.close()

    async def _client_maker(self, region: str) -> Callable[[], Any]:
        auth = await self._credentials.get()
        is_keyless = auth is LOCAL_KEYS
        is_bearer = isinstance(auth, Bearer)

        def make() -> Any:
            with self._lock:
                client = self._clients.get(region)
                if client is None:
                    client = self._clients[region] = self._new_client(region, is_keyless=is_keyless)
            if is_bearer:
                require_tls(parse_endpoint(client.meta.endpoint_url))
            return client

        return make

    def _new_client(self, region: str, *, is_keyless: bool) -> Any:
        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"} if is_keyless else {}
        client = self._open_session().create_client(
            SERVICE,
            region_name=region,
            endpoint_url=self._endpoint_url,
            config=Config(
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=self._max_connections,
                read_timeout=READ_TIMEOUT_S,
                tcp_keepalive=True,
            ),
            **keys,
        )
        client.meta.events.register(f"before-parse.{SERVICE}.Converse", _check_length)
        report_sockets(client)
        return client

    async def _in_thread(self, call: Callable[[], T], slot: CallSlot) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            slot.abort()
            future.add_done_callback(_forget)
            raise


def _translate(error: Exception, slot: CallSlot) -> SidecarError:
    if isinstance(error, ClientError):
        return http_error_from(error.response)
    if isinstance(error, ConnectTimeoutError) or (isinstance(error, ReadTimeoutError) and slot.is_connecting):
        return call_timeout("connect", slot.connect_s)
    if isinstance(error, ReadTimeoutError):
        return call_timeout("idle", READ_TIMEOUT_S)
    if isinstance(error, _CREDENTIAL_ERRORS):
        return credential_error(error)
    if isinstance(error, InvalidEndpointConfigurationError):
        return AccessDenied(f"botocore refuses the endpoint: {error}")
    if isinstance(error, ParamValidationError):
        return InvalidRequest(f"botocore refuses the call: {error}")
    if isinstance(error, ResponseParserError):
        return ModelFailed(f"Bedrock's answer cannot be read ({error})")
    name = type(error).__name__
    return ModelUnavailable(f"Bedrock could not be reached ({name}: {error})", details={"provider_code": name})


def _check_length(response_dict: Mapping[str, Any], **_: Any) -> None:
    """botocore takes a body that was cut for a whole one."""
    length = response_dict["headers"].get("content-length")
    body = response_dict["body"]
    if length is not None and isinstance(body, bytes) and len(body) < int(length):
        raise ModelUnavailable(
            f"Bedrock's answer was cut after {len(body)} of {length} bytes", details={"provider_code": "cut_body"}
        )


def _forget(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


class _ThreadReader:
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
            events.append(convert_event(kind, parsed))
        except msgspec.ValidationError as e:
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
                f"{type(error).__name__}: {error}", is_garbled=is_garbled, request_id=self._request_id
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
                for event in stream:
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


def stream_error_from(error: EventStreamError, request_id: str | None) -> SidecarError:
    """An exception frame as botocore raised it."""
    said = error.response.get("Error", {})
    found = provider_error(
        str(said.get("Code", "")), str(said.get("Message", "")), status=None, request_id=request_id
    )
    for key in ("originalStatusCode", "originalMessage"):
        if key in error.response:
            found.details[key] = error.response[key]
    return found
