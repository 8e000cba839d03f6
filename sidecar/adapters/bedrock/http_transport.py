"""Calls over aiohttp: no threads, and a cancelled call closes its socket at once."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from sidecar.adapters.bedrock.aws_time import AwsTime
from sidecar.adapters.bedrock.credentials import Bearer, CredentialSource
from sidecar.adapters.bedrock.endpoints import BedrockEndpoint, guardrail_path, model_path, require_tls
from sidecar.adapters.bedrock.errors import (
    EXPIRED_TYPES,
    LATE_TYPES,
    http_error,
    kind_of,
    stream_error,
    unreachable,
)
from sidecar.adapters.bedrock.frames import FrameDecoder, FrameError
from sidecar.adapters.bedrock.guardrail import GuardrailRequest
from sidecar.adapters.bedrock.mending import NotMendable, mended_event
from sidecar.adapters.bedrock.sigv4 import Signer
from sidecar.adapters.bedrock.transport import (
    EVENT_STREAM,
    MAX_BODY_BYTES,
    MAX_ERROR_BYTES,
    BrokenStream,
    CallTarget,
    DoubtfulReader,
    EventReader,
    not_a_stream,
)
from sidecar.adapters.bedrock.watchdog import call_timeout
from sidecar.adapters.bedrock.wire import StreamEvent, event_decoder, kind_read_by
from sidecar.errors import CallTimeout, ModelFailed, SidecarError
from sidecar.models.call import CallLimits

KEEP_ALIVE_S = 60.0
_KNOWN_PATHS = 1024
# aiohttp wants larger bodies as files, so that it can write them in pieces.
_LARGE_BODY_BYTES = 1024 * 1024
_encoder = msgspec.json.Encoder()


class HttpTransport:
    """Calls through one connection pool for all regions. `endpoint_for` may wait for the rules to load."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        credentials: CredentialSource,
        endpoint_for: Callable[[str], Any],
        time: AwsTime | None = None,
    ) -> None:
        self._session = session
        self._credentials = credentials
        self._endpoint_for = endpoint_for
        self._time = time or AwsTime()
        self._signers: dict[str, tuple[BedrockEndpoint, Signer]] = {}
        self._urls: dict[tuple[str, str], tuple[str, URL]] = {}

    async def converse(self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits) -> bytes:
        return await self._whole(target.region, model_path(target.invoke_id, "converse"), params, limits)

    async def apply_guardrail(self, region: str, request: GuardrailRequest, limits: CallLimits) -> bytes:
        path = guardrail_path(request.guardrail, request.version)
        return await self._whole(region, path, request.params, limits)

    async def _whole(self, region: str, path: str, params: Mapping[str, Any], limits: CallLimits) -> bytes:
        try:
            async with asyncio.timeout(limits.total_s):
                response = await self._post(region, path, params, limits)
                try:
                    body = await _whole_body(response, limits)
                    response.release()
                except BaseException:
                    response.close()
                    raise
                return body
        except TimeoutError as e:
            raise call_timeout("total", limits.total_s) from e

    async def open_stream(self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits) -> EventReader:
        nearest = min((limits.first_token_s, "first_token"), (limits.total_s, "total"))
        try:
            async with asyncio.timeout(nearest[0]):
                path = model_path(target.invoke_id, "converse-stream")
                response = await self._post(target.region, path, params, limits)
        except TimeoutError as e:
            raise call_timeout(nearest[1], nearest[0]) from e
        reader = _HttpReader(response)
        if response.content_type == EVENT_STREAM:
            return reader
        return DoubtfulReader(
            reader, not_a_stream(response.content_type, response.headers.get("x-amzn-requestid"))
        )

    async def close(self) -> None:
        await self._session.close()

    async def _post(
        self, region: str, path: str, params: Mapping[str, Any], limits: CallLimits
    ) -> aiohttp.ClientResponse:
        """The response with status 200; its body has not been read."""
        body = _encoder.encode(params)
        endpoint, signer = await self._signer(region)
        path, url = self._url(endpoint, path)
        has_renewed = False
        while True:
            headers = await self._headers(endpoint, signer, path, body)
            response, refusal = await self._attempt(url, body, headers, limits)
            if refusal is None:
                return response
            kind = kind_of(refusal.details["provider_code"])
            # Once at most each: what was learned is not learned again.
            if self._time.learns(kind, response.headers):
                continue
            if kind not in EXPIRED_TYPES:
                raise refusal
            if has_renewed or not await self._credentials.renewed(is_late=kind in LATE_TYPES):
                # Whoever calls next asks the chain again.
                self._credentials.invalidate()
                raise refusal
            has_renewed = True

    async def _attempt(
        self, url: URL, body: bytes, headers: Mapping[str, str], limits: CallLimits
    ) -> tuple[aiohttp.ClientResponse, SidecarError | None]:
        """The response, and what it refuses the call with; without a refusal its body has not been read."""
        try:
            response = await self._session.post(
                url,
                data=body if len(body) < _LARGE_BODY_BYTES else BytesIO(body),
                headers=headers,
                allow_redirects=False,
                timeout=_connect_timeout(limits.connect_s),
            )
            if response.status == 200:
                return response, None
            async with response:
                said = await response.content.read(MAX_ERROR_BYTES)
        except (aiohttp.ClientError, OSError) as e:
            raise _connection_error(e, limits, is_sent=not isinstance(e, _NOT_CONNECTED)) from e
        return response, http_error(response.status, response.headers, said)

    async def _signer(self, region: str) -> tuple[BedrockEndpoint, Signer]:
        known = self._signers.get(region)
        if known is None:
            endpoint: BedrockEndpoint = await self._endpoint_for(region)
            known = self._signers[region] = (endpoint, Signer(region=region, host=endpoint.host))
        return known

    def _url(self, endpoint: BedrockEndpoint, path: str) -> tuple[str, URL]:
        key = (endpoint.base, path)
        known = self._urls.get(key)
        if known is None:
            if len(self._urls) >= _KNOWN_PATHS:
                self._urls.clear()
            known = self._urls[key] = (endpoint.prefix + path, URL(endpoint.base + path, encoded=True))
        return known

    async def _headers(self, endpoint: BedrockEndpoint, signer: Signer, path: str, body: bytes) -> dict[str, str]:
        auth = await self._credentials.get()
        if isinstance(auth, Bearer):
            require_tls(endpoint)
            return {"Content-Type": "application/json", "Authorization": f"Bearer {auth.token}"}
        return signer.headers(path, body, auth, now=self._time.now())


@lru_cache(maxsize=64)
def _connect_timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=connect_s)


class _HttpReader:
    """The events of one response."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self._decoder = FrameDecoder(self._classify)
        self._request_id = response.headers.get("x-amzn-requestid")
        self._pending: Exception | None = None

    async def read(self) -> Sequence[StreamEvent]:
        if self._pending is not None:
            raise self._pending
        events: list[StreamEvent] = []
        while not events:
            try:
                data = await self._content.readany()
            except (aiohttp.ClientError, OSError) as e:
                raise BrokenStream(type(e).__name__, said=str(e), request_id=self._request_id) from e
            if not data:
                if not self._decoder.is_between_frames:
                    raise BrokenStream("it ended inside a frame", is_garbled=True, request_id=self._request_id)
                break
            self._decode(data, events)
        return events

    def _decode(self, data: bytes, events: list[StreamEvent]) -> None:
        """Raises only what comes before any event of `data`; other trouble waits for the next read."""
        try:
            for read, payload in self._decoder.feed(data):
                try:
                    events.append(read(payload))
                except (msgspec.DecodeError, UnicodeDecodeError) as e:
                    events.append(_mended(read, payload, e))
        except (FrameError, msgspec.DecodeError, UnicodeDecodeError, SidecarError) as e:
            self._pending = self._translate(e)
            if not events:
                raise self._pending from e

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, SidecarError):
            return error
        why = str(error) if isinstance(error, FrameError) else f"an event is not what its type says ({error})"
        return BrokenStream(why, is_garbled=True, request_id=self._request_id)

    def fail(self, error: CallTimeout) -> None:
        self._content.set_exception(error)

    async def close(self) -> None:
        if self._content.is_eof():
            self._response.release()
        else:
            self._response.close()

    def _classify(self, headers: Mapping[str, object]) -> Callable[[bytes], StreamEvent]:
        """How to read the payload of frames with these headers."""
        message_type = headers.get(":message-type")
        if message_type == "event":
            return event_decoder(str(headers.get(":event-type", "")))
        if message_type == "exception":
            return partial(self._raise, str(headers.get(":exception-type", "")))
        said = msgspec.json.encode({"message": str(headers.get(":error-message", ""))})
        return lambda _: self._raise(str(headers.get(":error-code", "")), said)

    def _raise(self, kind: str, payload: bytes) -> StreamEvent:
        raise stream_error(kind, payload, self._request_id)


def _mended(read: Callable[[bytes], StreamEvent], payload: bytes, why: Exception) -> StreamEvent:
    """An event that a strict reader refuses, read as far as it can be. Raises `why` for one that cannot."""
    try:
        return mended_event(kind_read_by(read), payload)
    except NotMendable:
        raise why from None


async def _whole_body(response: aiohttp.ClientResponse, limits: CallLimits) -> bytes:
    """The body of a whole answer; `idle_s` holds between its pieces."""
    pieces: list[bytes] = []
    size = 0
    content = response.content
    try:
        while True:
            data = content.read_nowait()
            if not data and not content.is_eof():
                async with asyncio.timeout(limits.idle_s):
                    data = await content.readany()
            if not data:
                return b"".join(pieces)
            pieces.append(data)
            size += len(data)
            if size > MAX_BODY_BYTES:
                raise ModelFailed(f"Bedrock's answer is larger than {MAX_BODY_BYTES} bytes")
    except TimeoutError as e:
        raise call_timeout("idle", limits.idle_s) from e
    except (aiohttp.ClientError, OSError) as e:
        raise _connection_error(e, limits, is_sent=True) from e


_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


def _connection_error(error: Exception, limits: CallLimits, *, is_sent: bool) -> SidecarError:
    """Trouble before there was a whole answer. `is_sent`: the call may have been made."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return call_timeout("connect", limits.connect_s)
    found = unreachable(error)
    if is_sent:
        found.reached = "sent"
    return found
