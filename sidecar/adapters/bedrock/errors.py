"""What Bedrock's refusals mean here: one table for HTTP answers and for exceptions inside streams.

An error is known by its type (`x-amzn-errortype`, `__type`, `:exception-type`), else by its HTTP status. Some
validation errors are known by their message alone. `details` carry `provider_code`, `http_status`, `request_id`.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.adapters.bedrock.aws_time import date_of
from sidecar.adapters.bedrock.causes import (
    SERVICE_QUOTA,
    TOO_LARGE,
    TOO_LARGE_TYPES,
    USE_CASE,
    cause_of_denial,
)
from sidecar.adapters.bedrock.foreign import closed, detail, heard, token, withholding
from sidecar.errors import (
    AccessDenied,
    AccountRefused,
    ContextOverflow,
    DailyQuotaExhausted,
    HoldCause,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    Permanent,
    SidecarError,
    Temporary,
    Throttled,
    Unreachable,
)
from sidecar.models.holds import remedy_of

_ACCESS = "check the credentials, the IAM policy (bedrock:InvokeModel…) and model access in this region"

# Type without "Exception", "Error" and "Fault", lower case.
_BY_TYPE: dict[str, type[SidecarError]] = {
    "throttling": Throttled,
    "throttled": Throttled,
    "toomanyrequests": Throttled,
    "requestlimitexceeded": Throttled,
    "servicequotaexceeded": Throttled,
    "modelnotready": ModelUnavailable,
    "serviceunavailable": ModelUnavailable,
    "internalserver": ModelUnavailable,
    "internalfailure": ModelUnavailable,
    "internal": ModelUnavailable,
    "modeltimeout": ModelFailed,
    "model": ModelFailed,
    "modelstream": ModelFailed,
    "validation": InvalidRequest,
    "serialization": InvalidRequest,
    "accessdenied": AccessDenied,
    "unauthorized": AccessDenied,
    "notauthorized": AccessDenied,
    "optinrequired": AccessDenied,
    "resourcenotfound": Permanent,
}
_BY_STATUS: dict[int, type[SidecarError]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: Permanent,
    408: ModelFailed,
    424: ModelFailed,
    429: Throttled,
}
_QUOTA = frozenset({"servicequotaexceeded"})
# Keys that have gone meanwhile. After `LATE_TYPES` the call is worth signing anew even by the keys that were at
# hand: a rotation may be under way.
LATE_TYPES = frozenset({"expiredtoken", "requestexpired"})
EXPIRED_TYPES = LATE_TYPES | {"unrecognizedclient", "invalidclienttokenid"}
# Refusals that are the account's, whichever model was called. What names a model stays AccessDenied.
_BY_ACCOUNT: Mapping[str, HoldCause] = {
    "expiredtoken": "credentials_expired",
    "expiredtokenid": "credentials_expired",
    "unrecognizedclient": "credentials_invalid",
    "invalidclienttokenid": "credentials_invalid",
    "invalidaccesskeyid": "credentials_invalid",
    "missingauthenticationtoken": "credentials_invalid",
    "invalidsignature": "signature_refused",
    "signaturedoesnotmatch": "signature_refused",
    "incompletesignature": "signature_refused",
    "requestexpired": "clock_skewed",
    "requesttimetooskewed": "clock_skewed",
}
# Of these types, and of API keys, the message alone tells.
_BY_WORDS: tuple[tuple[HoldCause, re.Pattern[str]], ...] = (
    (
        "clock_skewed",
        re.compile(r"signature (has )?expired|signature not yet current|request (has )?expired", re.I),
    ),
    ("credentials_expired", re.compile(r"(bearer|security|api key|session)[ \w]* expired|expired token", re.I)),
    ("credentials_invalid", re.compile(r"api key is valid|invalid api key|security token[ \w]* is invalid", re.I)),
)

_CONTEXT_OVERFLOW = re.compile(
    r"(input|prompt)( text)? is too long|too many input tokens|maximum context length"
    r"|context (window|limit|length)"
    r"|input tokens exceed|exceeds? the (maximum|max)( number of)?( input)? tokens?|exceeds the model's maximum"
    r"|maximum (number of )?(input )?tokens? (of|allowed)|number of input tokens",
    re.IGNORECASE,
)
_UNKNOWN_MODEL = re.compile(
    r"model identifier is invalid|could not resolve the foundation model|end of its life"
    r"|on-demand throughput isn.t|(model|inference profile) .*(not found|does not exist)"
    r"|isn.t supported in this region",
    re.IGNORECASE,
)
_PER_DAY = re.compile(r"(tokens|requests) per day|daily (token|request)", re.IGNORECASE)
# What a refusal names, in AWS's own words.
_NAMED = (
    ("concurrency", re.compile(r"concurren(t|cy)|too many connections", re.IGNORECASE)),
    ("requests", re.compile(r"too many requests|request rate|requests per (minute|second)", re.IGNORECASE)),
    ("tokens", re.compile(r"too many tokens|token rate|tokens per minute", re.IGNORECASE)),
)
_SUFFIX = re.compile(r"(exception|error|fault)+$")


def kind_of(error_type: str) -> str:
    """`ThrottlingException:http://…` and `throttlingException` as `throttling`."""
    name = error_type.rsplit("#", 1)[-1].split(":", 1)[0].strip().lower()
    return _SUFFIX.sub("", name)


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> SidecarError:
    """The error that an HTTP answer with a status of 300 or more stands for. Never raises."""
    fields = _fields(body)
    error_type = headers.get("x-amzn-errortype") or _text(fields, "__type") or _text(fields, "code") or ""
    message = _text(fields, "message") or _text(fields, "Message") or ""
    return provider_error(
        error_type,
        message,
        status=status,
        request_id=headers.get("x-amzn-requestid"),
        retry_after=_retry_after(headers),
        date=date_of(headers),
    )


def http_error_from(response: Mapping[str, Any]) -> SidecarError:
    """The same for an error that botocore parsed (`ClientError.response`)."""
    metadata = response.get("ResponseMetadata", {})
    said = response.get("Error", {})
    code = str(said.get("Code", ""))
    headers = metadata.get("HTTPHeaders", {})
    return provider_error(
        # botocore puts the status where there was no type.
        "" if code.isdigit() or code == "Unknown" else code,
        str(said.get("Message") or ""),
        status=metadata.get("HTTPStatusCode"),
        request_id=metadata.get("RequestId"),
        retry_after=_retry_after(headers),
        date=date_of(headers),
    )


def stream_error(error_type: str, payload: bytes | Mapping[str, Any], request_id: str | None) -> SidecarError:
    """The error that an exception frame stands for; it has a type in lower case and no HTTP status."""
    fields = _fields(payload) if isinstance(payload, bytes) else payload
    message = _text(fields, "message") or _text(fields, "Message") or ""
    error = provider_error(error_type, message, status=None, request_id=request_id)
    return with_original(error, fields)


def with_original(error: SidecarError, fields: Mapping[str, Any]) -> SidecarError:
    """`error` with what an exception frame says about the error behind it."""
    for key in ("originalStatusCode", "originalMessage"):
        if key in fields:
            error.details[key] = detail(fields[key])
    return error


def provider_error(
    error_type: str,
    message: str,
    *,
    status: int | None,
    request_id: str | None = None,
    retry_after: float | None = None,
    date: float | None = None,
) -> SidecarError:
    """`date`: the answer's, by AWS's clock, seconds since 1970."""
    kind = kind_of(error_type)
    found = _BY_TYPE.get(kind) or _by_status(status)
    if found in (Permanent, InvalidRequest, AccessDenied) and USE_CASE.search(message):
        found = AccessDenied
    name = token(error_type.split(":", 1)[0].rsplit("#", 1)[-1])
    name = name or (f"HTTP {status}" if status else "unknown error")
    sense, withheld = heard(message)
    said = f"Bedrock: {sense or 'no message'} ({name})"
    account = account_cause(kind, message, status=status)
    if account is not None:
        error: SidecarError = AccountRefused("", cause=account)
    elif status == 413 or kind in TOO_LARGE_TYPES:
        error = InvalidRequest(f"{said}; {TOO_LARGE}", code="payload_too_large")
    else:
        error = _build(found, f"{said}; {SERVICE_QUOTA}" if kind in _QUOTA else said, message, retry_after)
    error.details["provider_code"] = name
    if status is not None:
        error.details["http_status"] = status
    if shown_id := token(request_id, longest=128):
        error.details["request_id"] = shown_id
    if isinstance(error, AccessDenied | AccountRefused):
        # Who was refused what, and why, is between the operator and AWS.
        cause = cause_of_denial(kind, message, date=date)
        error.message = ": ".join(filter(None, [f"Bedrock refuses the sidecar this call ({name})", cause.text]))
        if cause.behind_s is not None:
            error.details["clock_behind_s"] = cause.behind_s
        remedy = _ACCESS if account is None else remedy_of(account)
        return closed(error, f"{message or 'no message'}; {remedy}")
    return withholding(error, withheld)


def account_cause(kind: str, message: str, *, status: int | None) -> HoldCause | None:
    """Why no call of this account can be made, where a refusal says that; None where it is about one call."""
    found = _BY_ACCOUNT.get(kind)
    if found in (None, "signature_refused") and (found is not None or status in (401, 403)):
        return next((cause for cause, words in _BY_WORDS if words.search(message)), found)
    return found


# By the names of what aiohttp and botocore raise where there is no connection: of DNS, TCP, TLS or a proxy.
_NO_CONNECTION = frozenset(
    {
        "ClientConnectorError",
        "ClientConnectorDNSError",
        "ClientConnectorSSLError",
        "ClientConnectorCertificateError",
        "ClientProxyConnectionError",
        "ClientConnectionError",
        "EndpointConnectionError",
        "ConnectionError",
        "SSLError",
        "ProxyConnectionError",
        "gaierror",
    }
)


def unreachable(error: Exception) -> SidecarError:
    """Trouble on the way, before there was any answer: it names hosts, proxies, addresses."""
    name = type(error).__name__
    kind = Unreachable if name in _NO_CONNECTION else ModelUnavailable
    found = kind(f"Bedrock could not be reached ({name})", details={"provider_code": name})
    return closed(found, str(error))


def _by_status(status: int | None) -> type[SidecarError]:
    if status is None:
        return ModelFailed
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return InvalidRequest
    return ModelUnavailable


def _build(found: type[SidecarError], said: str, message: str, retry_after: float | None) -> SidecarError:
    if issubclass(found, Throttled):
        kind = DailyQuotaExhausted if _PER_DAY.search(message) else found
        error = kind(said, retry_after=retry_after)
        for limit, words in _NAMED:
            if words.search(message):
                error.details["limit"] = limit
                break
        return error
    if issubclass(found, Temporary):
        return found(said, retry_after=retry_after)
    if found is AccessDenied:
        return AccessDenied(said)
    if found is InvalidRequest and _CONTEXT_OVERFLOW.search(message):
        return ContextOverflow(said)
    if found is Permanent or _UNKNOWN_MODEL.search(message):
        return Permanent(said, code="unknown_model")
    return InvalidRequest(said)


def is_object(body: bytes) -> bool:
    """Whether the body of a refusal is what botocore reads: a JSON object, its text fields texts."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    texts = ("message", "Message", "code", "__type")
    return isinstance(found, dict) and all(isinstance(found.get(name, ""), str | None) for name in texts)


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if isinstance(value, str) and value else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; `x-amz-retry-after` is in milliseconds, `Retry-After` in seconds or an HTTP date."""
    raw = headers.get("x-amz-retry-after")
    if raw is not None and raw.strip().isdigit():
        return int(raw) / 1000
    raw = headers.get("retry-after")
    if raw is None:
        return None
    try:
        return max(0.0, float(raw))
    except ValueError:
        until = date_of(headers, "retry-after")
    if until is None:
        return None
    # A date is meant by the clock of who wrote it, and the answer says what that shows.
    now = date_of(headers)
    return max(0.0, until - (time.time() if now is None else now))
