"""Calls by botocore's own client in threads: the fallback (`bedrock.transport = "boto3"`) and the oracle in tests.

Slower and larger than `http_transport`, but nothing in it was written here: serialising, signing, sending and
parsing are botocore's. Retries are off, since it would resend a call whose answer is being paid for.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    InvalidEndpointConfigurationError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from sidecar.adapters.bedrock.credentials import LOCAL_KEYS, Auth, Bearer, CredentialSource, credential_error
from sidecar.adapters.bedrock.endpoints import SERVICE, parse_endpoint, require_tls
from sidecar.adapters.bedrock.errors import (
    EXPIRED_TYPES,
    LATE_TYPES,
    http_error,
    http_error_from,
    is_object,
    kind_of,
    unreachable,
)
from sidecar.adapters.bedrock.foreign import closed, heard, withholding
from sidecar.adapters.bedrock.guardrail import GuardrailRequest
from sidecar.adapters.bedrock.sigv4 import Keys
from sidecar.adapters.bedrock.sockets import CallSlot, report_sockets
from sidecar.adapters.bedrock.thread_reader import UNREADABLE, ThreadReader
from sidecar.adapters.bedrock.transport import (
    EVENT_STREAM,
    CallTarget,
    DoubtfulReader,
    EventReader,
    not_a_stream,
)
from sidecar.adapters.bedrock.watchdog import call_timeout
from sidecar.errors import AccessDenied, InvalidRequest, ModelFailed, ModelUnavailable, SidecarError
from sidecar.models.call import CallLimits

T = TypeVar("T")

# Backstop for threads; the limits of a call are kept on the event loop, which closes the socket.
READ_TIMEOUT_S = 3600
_NOT_READ = "Bedrock's answer cannot be read"
_NOT_CONNECTED = (EndpointConnectionError, ProxyConnectionError, SSLError)
_CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    MetadataRetrievalError,
)


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
        self._is_renewed = False
        self._seen: Auth | None = None

    async def converse(
        self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits
    ) -> Mapping[str, Any]:
        return await self._whole(
            target.region, lambda client: client.converse(modelId=target.invoke_id, **params), limits
        )

    async def apply_guardrail(
        self, region: str, request: GuardrailRequest, limits: CallLimits
    ) -> Mapping[str, Any]:
        names = {"guardrailIdentifier": request.guardrail, "guardrailVersion": request.version}
        return await self._whole(region, lambda client: client.apply_guardrail(**names, **request.params), limits)

    async def _whole(
        self, region: str, ask: Callable[[Any], Mapping[str, Any]], limits: CallLimits, *, is_first: bool = True
    ) -> Mapping[str, Any]:
        slot = CallSlot(limits.connect_s)
        try:
            async with asyncio.timeout(limits.total_s):
                make_client = await self._client_maker(region)

                def call() -> Mapping[str, Any]:
                    client = make_client()
                    with slot.hold():
                        try:
                            return ask(client)
                        except UNREADABLE as e:
                            raise ModelFailed(_NOT_READ) from e

                return await self._in_thread(call, slot)
        except TimeoutError as e:
            raise call_timeout("total", limits.total_s) from e
        except (BotoCoreError, ClientError, ResponseParserError) as e:
            if is_first and await self._renewed(e):
                return await self._whole(region, ask, limits, is_first=False)
            raise _translate(e, slot) from e

    async def open_stream(self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits) -> EventReader:
        return await self._opened(target, params, limits, is_first=True)

    async def _opened(
        self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits, *, is_first: bool
    ) -> EventReader:
        slot = CallSlot(limits.connect_s)
        nearest = min((limits.first_token_s, "first_token"), (limits.total_s, "total"))
        try:
            async with asyncio.timeout(nearest[0]):
                make_client = await self._client_maker(target.region)
                reader = ThreadReader(slot)
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
            if is_first and await self._renewed(e):
                return await self._opened(target, params, limits, is_first=False)
            raise _translate(e, slot) from e
        if content_type.split(";", 1)[0] == EVENT_STREAM:
            return reader
        return DoubtfulReader(reader, not_a_stream(content_type, request_id))

    async def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        for client in self._clients.values():
            client.close()

    async def _renewed(self, error: Exception) -> bool:
        """Whether a refusal is put down to keys that have gone: the call is worth signing anew."""
        kind = (
            kind_of(str(error.response.get("Error", {}).get("Code", ""))) if isinstance(error, ClientError) else ""
        )
        if kind not in EXPIRED_TYPES or not await self._credentials.renewed(is_late=kind in LATE_TYPES):
            return False
        with self._lock:
            # A client keeps the keys that it was made with. One whose answer is still read is not closed.
            self._clients.clear()
            self._is_renewed = True
        return True

    async def _client_maker(self, region: str) -> Callable[[], Any]:
        auth = await self._credentials.get()
        if self._seen is not None and auth != self._seen:
            with self._lock:
                # Others were found meanwhile: the clients have those that were there before.
                self._clients.clear()
                self._is_renewed = True
        self._seen = auth
        # A session gives the keys again that it found first.
        keys = auth if isinstance(auth, Keys) and (self._is_renewed or auth is LOCAL_KEYS) else None
        is_bearer = isinstance(auth, Bearer)

        def make() -> Any:
            with self._lock:
                client = self._clients.get(region)
                if client is None:
                    client = self._clients[region] = self._new_client(region, keys)
            if is_bearer:
                require_tls(parse_endpoint(client.meta.endpoint_url))
            return client

        return make

    def _new_client(self, region: str, keys: Keys | None) -> Any:
        named = {}
        if keys is not None:
            named = {"aws_access_key_id": keys.access_key, "aws_secret_access_key": keys.secret_key}
            if keys.token:
                named["aws_session_token"] = keys.token
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
            **named,
        )
        client.meta.events.register(f"before-parse.{SERVICE}.Converse", _check_length)
        client.meta.events.register(f"before-parse.{SERVICE}", _check_refusal)
        report_sockets(client)
        return client

    async def _in_thread(self, call: Callable[[], T], slot: CallSlot) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            # A thread cannot be cancelled: it is left to end at the aborted socket, and its outcome is fetched by
            # _forget.
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
        return closed(AccessDenied("the sidecar's endpoint for Bedrock cannot be used"), str(error))
    if isinstance(error, ParamValidationError):
        sense, withheld = heard(str(error))
        return withholding(InvalidRequest(f"botocore refuses the call: {sense}"), withheld)
    if isinstance(error, ResponseParserError):
        # It quotes the answer, so that neither tenant nor log gets it.
        return ModelFailed(_NOT_READ)
    found = unreachable(error)
    if not isinstance(error, _NOT_CONNECTED):
        found.reached = "sent"
    return found


def _check_length(response_dict: Mapping[str, Any], **_: Any) -> None:
    """botocore takes a body that was cut for a whole one."""
    length = response_dict["headers"].get("content-length")
    body = response_dict["body"]
    if length is not None and isinstance(body, bytes) and len(body) < int(length):
        error = ModelUnavailable(
            f"Bedrock's answer was cut after {len(body)} of {length} bytes", details={"provider_code": "cut_body"}
        )
        error.reached = "sent"
        raise error


def _check_refusal(response_dict: Mapping[str, Any], **_: Any) -> None:
    """botocore takes the body of a refusal for a JSON object, and fails by whatever it meets where it is none."""
    status, body = response_dict["status_code"], response_dict["body"]
    if status >= 300 and not (isinstance(body, bytes) and is_object(body)):
        raise http_error(status, response_dict["headers"], body if isinstance(body, bytes) else b"")


def _forget(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
