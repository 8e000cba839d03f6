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
    InvalidEndpointConfigurationError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from sidecar.adapters.bedrock.credentials import LOCAL_KEYS, Bearer, CredentialSource, credential_error
from sidecar.adapters.bedrock.endpoints import SERVICE, parse_endpoint, require_tls
from sidecar.adapters.bedrock.errors import http_error_from
from sidecar.adapters.bedrock.guardrail import GuardrailRequest
from sidecar.adapters.bedrock.sockets import CallSlot, report_sockets
from sidecar.adapters.bedrock.thread_reader import ThreadReader
from sidecar.adapters.bedrock.transport import (
    EVENT_STREAM,
    CallTarget,
    EventReader,
    not_a_stream,
)
from sidecar.adapters.bedrock.watchdog import call_timeout
from sidecar.errors import AccessDenied, InvalidRequest, ModelFailed, ModelUnavailable, SidecarError
from sidecar.models.call import CallLimits

T = TypeVar("T")

# Backstop for threads; the limits of a call are kept on the event loop, which closes the socket.
READ_TIMEOUT_S = 3600
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
        self, region: str, ask: Callable[[Any], Mapping[str, Any]], limits: CallLimits
    ) -> Mapping[str, Any]:
        slot = CallSlot(limits.connect_s)
        try:
            async with asyncio.timeout(limits.total_s):
                make_client = await self._client_maker(region)

                def call() -> Mapping[str, Any]:
                    client = make_client()
                    with slot.hold():
                        return ask(client)

                return await self._in_thread(call, slot)
        except TimeoutError as e:
            raise call_timeout("total", limits.total_s) from e
        except (BotoCoreError, ClientError, ResponseParserError) as e:
            raise _translate(e, slot) from e

    async def open_stream(self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits) -> EventReader:
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
