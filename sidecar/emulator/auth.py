"""Who may call: anybody, anybody with some Authorization, or holders of a known secret (SigV4) or bearer token."""

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

from sidecar.emulator.exceptions import Refusal

DEFAULT_REGION = "us-east-1"

_STAMP = "%Y%m%dT%H%M%SZ"
_TOLERATED_S = 300
_SIGV4 = "AWS4-HMAC-SHA256"
_FIELD = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")
_SCOPE_REGION = re.compile(r"Credential=[^/]+/\d{8}/([a-z0-9-]+)/")


class AuthPolicy(NamedTuple):
    """`secrets` maps access key ids to secret keys. Without secrets and tokens, anything presented will do."""

    is_required: bool = False
    secrets: Mapping[str, str] | None = None
    bearer_tokens: frozenset[str] | None = None

    @property
    def is_open(self) -> bool:
        return not (self.is_required or self.secrets or self.bearer_tokens)


def read_region(authorization: str) -> str:
    """Region of a SigV4 credential scope; a bearer token names none, so the default."""
    found = _SCOPE_REGION.search(authorization)
    return found[1] if found else DEFAULT_REGION


def authorize(policy: AuthPolicy, *, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
    """Raises Refusal (403) unless the policy lets the call in. `target` is path and query as sent."""
    if policy.is_open:
        return
    authorization = headers.get("Authorization", "")
    if not authorization:
        raise Refusal("missing_token")
    if authorization.startswith("Bearer "):
        tokens = policy.bearer_tokens
        if (tokens or policy.secrets) and authorization.removeprefix("Bearer ").strip() not in (tokens or ()):
            raise Refusal("access_denied", "Authentication failed: Please make sure your API Key is valid.")
        return
    if not authorization.startswith(_SIGV4):
        raise Refusal("missing_token")
    if policy.secrets or policy.bearer_tokens:
        _verify(policy.secrets or {}, authorization, method=method, target=target, headers=headers, body=body)


def _verify(
    secrets: Mapping[str, str],
    authorization: str,
    *,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
) -> None:
    _check_time(headers.get("x-amz-date", ""), time.time())
    fields = dict(_FIELD.findall(authorization))
    key_id, _, scope = fields.get("Credential", "").partition("/")
    secret = secrets.get(key_id)
    if secret is None:
        raise Refusal("unrecognized_client")
    names = fields.get("SignedHeaders", "").split(";")
    canonical = "\n".join(
        (
            method,
            *_canonical_target(target),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            headers.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest(),
        )
    )
    to_sign = "\n".join(
        (_SIGV4, headers.get("x-amz-date", ""), scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    expected = hmac.digest(key, to_sign.encode(), "sha256").hex()
    if not hmac.compare_digest(expected, fields.get("Signature", "")):
        raise Refusal("invalid_signature")


def _check_time(signed: str, now: float) -> None:
    """Raises Refusal for a signature of another time, in AWS's words."""
    try:
        at = datetime.strptime(signed, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Refusal("invalid_signature") from None
    own, earliest, latest = (_stamp(now + seconds) for seconds in (0, -_TOLERATED_S, _TOLERATED_S))
    if at < now - _TOLERATED_S:
        said = f"Signature expired: {signed} is now earlier than {earliest} ({own} - 5 min.)"
        raise Refusal("invalid_signature", said)
    if at > now + _TOLERATED_S:
        said = f"Signature not yet current: {signed} is still later than {latest} ({own} + 5 min.)"
        raise Refusal("invalid_signature", said)


def _stamp(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime(_STAMP)


def _canonical_target(target: str) -> tuple[str, str]:
    """Path encoded once more, as services other than S3 want it, and the query sorted."""
    path, _, query = target.partition("?")
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, True))
    return quote(path, safe="/-_.~"), "&".join(f"{key}={value}" for key, value in pairs)
