"""Where Bedrock is: one endpoint for each region, by botocore's rules or as the settings say."""

import ipaddress
import ssl
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from sidecar.adapters.bedrock.foreign import closed
from sidecar.errors import AccessDenied, ModelUnavailable

if TYPE_CHECKING:
    from botocore.session import Session

SERVICE = "bedrock-runtime"


class BedrockEndpoint(NamedTuple):
    """`base` has no slash at its end; `host` is what stands in the Host header; `prefix` the path of `base`."""

    base: str
    host: str
    prefix: str

    @property
    def is_https(self) -> bool:
        return self.base.startswith("https:")

    @property
    def is_local(self) -> bool:
        return is_loopback(self.base)


def parse_endpoint(url: str) -> BedrockEndpoint:
    """An endpoint from its URL. The default port is not part of the Host header, as HTTP clients have it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of an endpoint: give http(s)://host[:port]")
    default_port = 443 if parts.scheme == "https" else 80
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host = name if parts.port in (None, default_port) else f"{name}:{parts.port}"
    prefix = parts.path.rstrip("/")
    return BedrockEndpoint(f"{parts.scheme}://{host}{prefix}", host, prefix)


def is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def resolve_blocking(session: "Session", region: str) -> BedrockEndpoint:
    """A region's endpoint as a boto3 client would choose it, `AWS_ENDPOINT_URL_BEDROCK_RUNTIME` and FIPS included.

    Blocks for some 50 ms. Raises ModelUnavailable for a region that has none.
    """
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        client = session.create_client(SERVICE, region_name=region, config=Config(signature_version=UNSIGNED))
        url = client.meta.endpoint_url
        client.close()
    except (BotoCoreError, ValueError) as e:
        details = {"provider_code": type(e).__name__}
        found = ModelUnavailable(f"region {region!r} has no endpoint for Bedrock", details=details)
        raise closed(found, str(e)) from e
    return parse_endpoint(url)


def trusted_roots_blocking(session: "Session") -> ssl.SSLContext:
    """Whom to trust: `AWS_CA_BUNDLE` (or `ca_bundle`) alone, else the system's roots and those of botocore."""
    from botocore.httpsession import get_cert_path

    bundle = session.get_config_variable("ca_bundle")
    if bundle:
        return ssl.create_default_context(cafile=bundle)
    context = ssl.create_default_context()
    context.load_verify_locations(get_cert_path(True))
    return context


def model_path(invoke_id: str, verb: str) -> str:
    """The path of a call. `invoke_id` (id, profile or ARN) is encoded whole, slashes and colons included."""
    return f"/model/{quote(invoke_id, safe='-._~')}/{verb}"


def guardrail_path(guardrail: str, version: str) -> str:
    """The path of ApplyGuardrail. `guardrail` is an id or an ARN."""
    return f"/guardrail/{quote(guardrail, safe='-._~')}/version/{quote(version, safe='-._~')}/apply"


def require_tls(endpoint: BedrockEndpoint) -> None:
    """Raises AccessDenied where a bearer token would go over an open connection."""
    if not endpoint.is_https and not endpoint.is_local:
        found = AccessDenied(
            "the sidecar's endpoint for Bedrock is not secure", details={"provider_code": "InsecureTransport"}
        )
        said = f"AWS_BEARER_TOKEN_BEDROCK is not sent over plain HTTP to {endpoint.host}: use an https endpoint"
        raise closed(found, said)
