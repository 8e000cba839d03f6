"""The Bedrock adapter's front: port `ModelClient` over one of two transports."""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec

from sidecar.adapters.bedrock.credentials import CredentialSource
from sidecar.adapters.bedrock.decode import decode_response
from sidecar.adapters.bedrock.diagnosis import reach
from sidecar.adapters.bedrock.endpoints import (
    BedrockEndpoint,
    is_loopback,
    parse_endpoint,
    resolve_blocking,
    trusted_roots_blocking,
)
from sidecar.adapters.bedrock.families import encode_call
from sidecar.adapters.bedrock.guardrail import decode_verdict, encode_guardrail
from sidecar.adapters.bedrock.schema import SchemaForms, make_forms
from sidecar.adapters.bedrock.stream import Assembler
from sidecar.adapters.bedrock.transport import BrokenStream, CallTarget, EventReader, Transport
from sidecar.adapters.bedrock.watchdog import Watchdog
from sidecar.config.settings import BedrockSettings
from sidecar.errors import (
    AccessDenied,
    CallTimeout,
    HoldCause,
    InvalidRequest,
    ModelFailed,
    SidecarError,
    StartupError,
    Temporary,
    TooCostly,
)
from sidecar.models.call import CallLimits, ModelCall, ModelDelta, ModelReply
from sidecar.models.filtering import GuardrailVerdict
from sidecar.runtime.bounded_work import BoundedWork

if TYPE_CHECKING:
    from botocore.session import Session

log = logging.getLogger(__name__)

# After the answer's end only its bill is outstanding, and then only the end of the stream.
BILL_GRACE_S = 10.0
END_GRACE_S = 0.25
# JSON of an output schema: what is larger is prepared in a worker process.
MOST_INLINE_SCHEMA = 16 * 1024
# A guardrail stands in the way of every answer: short trouble is waited out, longer trouble is said.
GUARDRAIL_DELAYS_S = (0.1, 0.5)
LONGEST_GUARDRAIL_DELAY_S = 5.0
NO_MODEL = "sidecar.doctor"
# A look whether the endpoint is back.
LOOK_TIMEOUT_S = 1.5


class BedrockManager:
    """Calls models in any region. `start` before the first call; `monotonic` is seconds that never go back."""

    def __init__(
        self,
        settings: BedrockSettings,
        monotonic: Callable[[], float] = time.monotonic,
        work: BoundedWork | None = None,
    ) -> None:
        """`work` prepares large output schemas."""
        self._work = work
        self._settings = settings
        self._monotonic = monotonic
        self._transport: Transport | None = None
        self._credentials: CredentialSource | None = None
        self._endpoints: dict[str, asyncio.Task[BedrockEndpoint]] = {}
        self._session: Session | None = None
        self._tls: ssl.SSLContext | None = None
        self._warming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the transport; `warm` may follow. Raises StartupError for a malformed endpoint URL."""
        url = self._settings.endpoint_url
        if url is not None:
            try:
                parse_endpoint(url)
            except ValueError as e:
                raise StartupError(f"bedrock.endpoint_url: {e}") from e
        self._credentials = CredentialSource(
            self._open_session,
            is_local=url is not None and is_loopback(url),
            clock=self._monotonic,
            has_profile=self._settings.profile is not None,
        )
        self._transport = await self._open_transport(self._credentials)

    def warm(self) -> None:
        """Look credentials and endpoints up now, beside everything else, so that the first call need not wait.

        Not part of the start: botocore alone takes half a second of CPU to be imported.
        """
        if self._credentials is not None:
            self._warming = asyncio.create_task(self._warm(self._credentials), name="bedrock-warming")

    async def _warm(self, credentials: CredentialSource) -> None:
        try:
            await credentials.get()
            for region in self._settings.regions:
                await self._endpoint(region)
        except SidecarError as e:
            log.warning("Bedrock cannot be called yet", extra={"error": e.for_operator})

    async def prove(self, region: str, limits: CallLimits) -> None:
        """Have AWS check credentials, signature and clock by a signed call of no model: nobody is billed for it.

        Raises AccountRefused, Unreachable, AccessDenied: what stands in the way of every call.
        """
        try:
            await self._open().converse(CallTarget(region, NO_MODEL), {"messages": []}, limits)
        except AccessDenied:
            raise
        except SidecarError as e:
            # Refused for what it asks is refused after the signature was checked.
            if e.hold is not None:
                raise

    async def look(self, cause: HoldCause, *, region: str | None) -> bool | None:
        """Whether what stood in the way of calls is gone, told without a call; None where it cannot be told."""
        if cause == "unreachable":
            return await self._is_reachable(region or self._settings.regions[0])
        if cause in ("model_unavailable", "clock_skewed") or self._credentials is None:
            return None
        return await self._credentials.is_mended()

    async def _is_reachable(self, region: str) -> bool:
        try:
            await reach(await self._endpoint(region), timeout_s=LOOK_TIMEOUT_S, tls=self._tls)
        except SidecarError:
            return False
        return True

    async def close(self) -> None:
        """Close connections and threads. Calls under way fail."""
        if self._warming is not None:
            self._warming.cancel()
            # Waited for before the connections are closed that it may be opening.
            await asyncio.wait({self._warming})
        for lookup in self._endpoints.values():
            lookup.cancel()
        self._endpoints.clear()
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()
        if self._credentials is not None:
            await self._credentials.close()

    async def converse(self, call: ModelCall) -> ModelReply:
        """A whole answer in one piece. Raises the typed errors of a call.

        Bedrock says nothing before an answer is whole, so `first_token_s` cannot hold here: `total_s` does.
        """
        encoded = encode_call(
            call,
            is_stream=False,
            forms=None if call.output_schema is None else await self._forms(call.output_schema, call),
        )
        response = await self._open().converse(_target(call), encoded.params, self._limits(call))
        return decode_response(response, encoded)

    async def _forms(self, asked: dict[str, Any], call: ModelCall) -> SchemaForms | None:
        """The forms of a large output schema, made away from the event loop; None where they cost a moment."""
        if self._work is None or len(data := msgspec.json.encode(asked)) <= MOST_INLINE_SCHEMA:
            return None
        try:
            made = await self._work.run(call.request_metadata.get("tenant", ""), make_forms, data)
        except TooCostly as e:
            why = f"preparing the schema for the model {e.message}: simplify the schema"
            raise InvalidRequest(why, path="output.schema") from e
        return made.of(asked)

    async def stream(self, call: ModelCall) -> AsyncIterator[ModelDelta | ModelReply]:
        """Deltas as they come, then the reply. Raises the typed errors of a call.

        An answer is complete with messageStop; when its usage does not follow, it is estimated, with a warning.
        """
        encoded = encode_call(
            call,
            is_stream=True,
            forms=None if call.output_schema is None else await self._forms(call.output_schema, call),
        )
        started = self._monotonic()
        reader = await self._open().open_stream(_target(call), encoded.params, self._limits(call))
        watchdog = self._watch(call, reader, elapsed_s=self._monotonic() - started)
        assembler = Assembler(encoded)
        first_token_ms: int | None = None
        trouble: str | None = None
        try:
            while True:
                try:
                    events = await reader.read()
                except (BrokenStream, CallTimeout) as e:
                    trouble = _after_the_end(e, assembler)
                    break
                if not events:
                    break
                watchdog.paused()
                for event in events:
                    for delta in assembler.feed(event):
                        yield delta
                if first_token_ms is None and assembler.has_content:
                    first_token_ms = round((self._monotonic() - started) * 1000)
                    watchdog.has_content()
                if assembler.is_stopped:
                    watchdog.limit_idle(END_GRACE_S if assembler.is_complete else BILL_GRACE_S)
                watchdog.waiting()
            if not assembler.is_stopped:
                raise _unfinished(assembler)
            yield assembler.finish(first_token_ms=first_token_ms, trouble=trouble)
        except SidecarError as e:
            assembler.account_for(e)
            raise
        finally:
            watchdog.stop()
            await reader.close()

    async def apply_guardrail(
        self,
        guardrail: str,
        *,
        version: str,
        text: str,
        source: Literal["INPUT", "OUTPUT"],
        region: str,
        timeout_s: float,
    ) -> GuardrailVerdict:
        """What a guardrail says of a text, asked again where it may help. Raises the typed errors of a call."""
        request = encode_guardrail(guardrail, version=version, text=text, source=source)
        limits = CallLimits(connect_s=self._settings.connect_timeout_s, total_s=timeout_s)
        for delay_s in (*GUARDRAIL_DELAYS_S, None):
            try:
                response = await self._open().apply_guardrail(region, request, limits)
                return decode_verdict(response, text=text)
            except Temporary as e:
                if delay_s is None:
                    raise
                await asyncio.sleep(max(delay_s, min(e.retry_after or 0.0, LONGEST_GUARDRAIL_DELAY_S)))
        raise ModelFailed("no verdict of the guardrail")

    def _open(self) -> Transport:
        if self._transport is None:
            raise ModelFailed("the Bedrock client is closed")
        return self._transport

    def _limits(self, call: ModelCall) -> CallLimits:
        """The call's limits; the settings may bound the time to connect further."""
        if self._settings.connect_timeout_s >= call.limits.connect_s:
            return call.limits
        return msgspec.structs.replace(call.limits, connect_s=self._settings.connect_timeout_s)

    def _watch(self, call: ModelCall, reader: EventReader, *, elapsed_s: float) -> Watchdog:
        # A model that does not stream tool arguments says nothing for as long as it writes them.
        may_be_silent = bool(call.tools) and not call.candidate.profile.traits.tool_streaming
        return Watchdog(self._limits(call), reader.fail, elapsed_s=elapsed_s, idle_counts=not may_be_silent)

    async def _open_transport(self, credentials: CredentialSource) -> Transport:
        if self._settings.transport == "boto3":
            return await asyncio.to_thread(self._open_boto3, credentials)
        import aiohttp

        from sidecar.adapters.bedrock.http_transport import KEEP_ALIVE_S, HttpTransport

        url = self._settings.endpoint_url
        is_plain = url is not None and not parse_endpoint(url).is_https
        if not is_plain:
            self._tls = await asyncio.to_thread(self._trusted)
        tls = self._tls or True
        connector = aiohttp.TCPConnector(
            limit=self._settings.max_connections, keepalive_timeout=KEEP_ALIVE_S, ssl=tls
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            auto_decompress=False,
        )
        return HttpTransport(session=session, credentials=credentials, endpoint_for=self._endpoint)

    def _open_boto3(self, credentials: CredentialSource) -> Transport:
        from sidecar.adapters.bedrock.boto3_transport import Boto3Transport

        return Boto3Transport(
            open_session=self._open_session,
            credentials=credentials,
            endpoint_url=self._settings.endpoint_url,
            max_connections=self._settings.max_connections,
        )

    def _trusted(self) -> ssl.SSLContext:
        return trusted_roots_blocking(self._open_session())

    def _open_session(self) -> "Session":
        """botocore's session; blocks, so never on the event loop."""
        import botocore.session

        if self._session is None:
            self._session = botocore.session.Session(profile=self._settings.profile)
        return self._session

    async def _endpoint(self, region: str) -> BedrockEndpoint:
        """A region's endpoint; looked up once, in a thread, however many ask."""
        if self._settings.endpoint_url is not None:
            return parse_endpoint(self._settings.endpoint_url)
        lookup = self._endpoints.get(region)
        if lookup is None or (lookup.done() and (lookup.cancelled() or lookup.exception() is not None)):
            lookup = asyncio.create_task(
                asyncio.to_thread(partial(self._resolve, region)), name=f"bedrock-endpoint-{region}"
            )
            self._endpoints[region] = lookup
        # The lookup is everybody's: a cancelled job must not end it for the others.
        return await asyncio.shield(lookup)

    def address(self, region: str) -> tuple[str, int] | None:
        """Host and port of a region's endpoint, for traces; None as long as it was not looked up."""
        if self._settings.endpoint_url is not None:
            endpoint = parse_endpoint(self._settings.endpoint_url)
        else:
            lookup = self._endpoints.get(region)
            if lookup is None or not lookup.done() or lookup.cancelled() or lookup.exception() is not None:
                return None
            endpoint = lookup.result()
        found = urlsplit(endpoint.base)
        return found.hostname or "", found.port or (443 if endpoint.is_https else 80)

    def _resolve(self, region: str) -> BedrockEndpoint:
        return resolve_blocking(self._open_session(), region)


def _target(call: ModelCall) -> CallTarget:
    return CallTarget(call.candidate.route.region, call.candidate.route.invoke_id)


def _after_the_end(error: BrokenStream | CallTimeout, assembler: Assembler) -> str | None:
    """What to say of trouble after messageStop; before it, the trouble is raised."""
    if assembler.is_complete:
        return None
    if assembler.is_stopped:
        return str(error)
    if isinstance(error, BrokenStream):
        raise error.to_error(has_content=assembler.has_content) from error
    raise error


def _unfinished(assembler: Assembler) -> Exception:
    return BrokenStream("it ended before messageStop", is_garbled=True).to_error(has_content=assembler.has_content)
