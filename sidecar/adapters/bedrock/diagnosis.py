"""What `sidecar doctor` asks about AWS, one question at a time, without calling a model."""

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

from sidecar.adapters.bedrock.credentials import Bearer, CredentialSource
from sidecar.adapters.bedrock.endpoints import (
    BedrockEndpoint,
    is_loopback,
    model_path,
    parse_endpoint,
    resolve_blocking,
)
from sidecar.adapters.bedrock.errors import is_object
from sidecar.adapters.bedrock.transport import MAX_ERROR_BYTES
from sidecar.config.settings import BedrockSettings
from sidecar.errors import ModelUnavailable, StartupError, Unreachable

if TYPE_CHECKING:
    from botocore.session import Session

_LOCAL = "local"
_NO_MODEL = "sidecar.doctor"


async def find_credentials(settings: BedrockSettings) -> str:
    """What calls will be signed with, in words and without secrets. Raises AccountRefused, ModelUnavailable."""
    url = settings.endpoint_url
    source = CredentialSource(
        lambda: _open_session(settings),
        is_local=url is not None and is_loopback(url),
        clock=time.monotonic,
    )
    try:
        found = await source.get()
    finally:
        await source.close()
    if isinstance(found, Bearer):
        return "a Bedrock API key (AWS_BEARER_TOKEN_BEDROCK)"
    if found.access_key == _LOCAL:
        return "none, and the endpoint on this machine needs none"
    kind = "temporary keys" if found.token else "an access key"
    return f"{kind} {found.access_key[:4]}…{found.access_key[-4:]}"


async def find_endpoint(settings: BedrockSettings, region: str) -> BedrockEndpoint:
    """Where a region's calls go. Raises ModelUnavailable where a region has no Bedrock, StartupError."""
    if settings.endpoint_url is not None:
        try:
            return parse_endpoint(settings.endpoint_url)
        except ValueError as e:
            raise StartupError(f"bedrock.endpoint_url: {e}") from e
    return await asyncio.to_thread(lambda: resolve_blocking(_open_session(settings), region))


async def reach(endpoint: BedrockEndpoint, *, timeout_s: float, tls: ssl.SSLContext | None = None) -> float:
    """Milliseconds until a connection (with TLS, where the endpoint has it) stands. `tls` says whom to trust.

    Raises Unreachable.
    """
    host, _, port = endpoint.host.rpartition(":")
    if not port.isdecimal():
        host, port = endpoint.host, "443" if endpoint.is_https else "80"
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=(tls or True) if endpoint.is_https else None
            )
    except (OSError, TimeoutError) as e:
        reason = str(e) or f"no answer within {timeout_s:g} s"
        raise Unreachable(f"{endpoint.base} cannot be reached: {reason}") from e
    elapsed_ms = (time.monotonic() - started) * 1000
    writer.close()
    return elapsed_ms


async def identify(endpoint: BedrockEndpoint, *, timeout_s: float) -> None:
    """Whether Bedrock answers there: an unsigned call of no model, which nobody is billed for.

    Raises ModelUnavailable for an answer that Bedrock does not give: a page, a redirect, a success.
    """
    import aiohttp
    from yarl import URL

    url = endpoint.base + model_path(_NO_MODEL, "converse")
    limit = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(URL(url, encoded=True), json={}, allow_redirects=False) as response,
        ):
            said = await response.content.read(MAX_ERROR_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError) as e:
        raise ModelUnavailable(f"{endpoint.base} did not answer a question: {type(e).__name__}") from e
    named = any(name.lower().startswith("x-amzn-") for name in response.headers)
    if response.status >= 400 and is_object(said) and (named or b'"message"' in said.lower()):
        return
    kind = response.content_type if said else "nothing"
    raise ModelUnavailable(
        f"{endpoint.base} is not Bedrock, which refuses in JSON: it answered HTTP {response.status} and {kind}"
    )


def _open_session(settings: BedrockSettings) -> "Session":
    import botocore.session

    return botocore.session.Session(profile=settings.profile)
