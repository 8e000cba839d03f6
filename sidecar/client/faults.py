"""What each failure of nats-py means here: the table by which `bus` translates."""

import asyncio
from collections.abc import Callable

from nats import errors as nats_errors

from sidecar.errors import AccessDenied, BusRefused, BusUnavailable, InvalidRequest, Permanent, SidecarError

FOREIGN = (nats_errors.Error, OSError, asyncio.TimeoutError)
"""Everything that nats-py raises for trouble on the bus; the rest is a fault in a program."""


def _away(text: str) -> Callable[[str], SidecarError]:
    return lambda context: BusUnavailable(f"{context}: {text}")


def _refused(text: str) -> Callable[[str], SidecarError]:
    return lambda context: BusRefused(f"{context}: {text}")


_TABLE: tuple[tuple[type[BaseException], Callable[[str], SidecarError]], ...] = (
    (nats_errors.NoRespondersError, _away("nobody listens there: is a sidecar running, with this prefix?")),
    (nats_errors.TimeoutError, _away("no answer in time")),
    (nats_errors.OutboundBufferLimitError, _away("too much is waiting for the connection to come back")),
    (nats_errors.ConnectionClosedError, _away("the connection is closed")),
    (nats_errors.ConnectionDrainingError, _away("the connection is being closed")),
    (nats_errors.ConnectionReconnectingError, _away("the connection is being made anew")),
    (nats_errors.StaleConnectionError, _away("the connection broke")),
    (nats_errors.NoServersError, _away("no NATS server can be reached")),
    (
        nats_errors.AuthorizationError,
        lambda context: AccessDenied(f"{context}: NATS does not accept these credentials"),
    ),
    (
        nats_errors.InvalidUserCredentialsError,
        lambda context: AccessDenied(f"{context}: the credentials file holds no usable JWT and seed"),
    ),
    (
        nats_errors.MaxPayloadError,
        lambda context: Permanent(
            f"{context}: larger than the server's max_payload; put large content into the object store",
            code="payload_too_large",
        ),
    ),
    (nats_errors.BadSubjectError, lambda context: InvalidRequest(f"{context}: not a valid NATS subject")),
    (nats_errors.BadHeaderError, lambda context: InvalidRequest(f"{context}: a header is not valid")),
    (nats_errors.SecureConnRequiredError, _refused("the server wants TLS: use tls:// or give a CA")),
    (nats_errors.SecureConnWantedError, _refused("the server offers no TLS")),
)


def translate(error: BaseException, context: str) -> SidecarError:
    """The typed error for one of `FOREIGN`; `context` says what was being done."""
    for kind, build in _TABLE:
        if isinstance(error, kind):
            return build(context)
    if "authorization violation" in str(error).lower() or "authentication" in str(error).lower():
        return AccessDenied(f"{context}: NATS does not accept these credentials")
    if isinstance(error, OSError | asyncio.TimeoutError):
        return BusUnavailable(f"{context}: {_text(error)}")
    return BusRefused(f"{context}: {_text(error)}")


def _text(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
