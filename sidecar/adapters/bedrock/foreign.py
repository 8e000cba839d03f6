"""The one way by which texts of AWS, its libraries and the network come into errors.

A tenant reads an error's message and details. Of what Bedrock says about a request the sense stays, and names of
our side go (`sidecar.runtime.redaction`). Of what is said about us (who may call, where, with what) nothing stays
but a sentence of our own. In both cases the operator's log has what is missing, under an id that the tenant sees,
too. The id is made with a key of this process: a text cannot be found by trying.
"""

import hmac
import logging
import secrets
import time
from collections import OrderedDict
from typing import Any, TypeVar

from sidecar.errors import SidecarError
from sidecar.runtime.redaction import redact, redact_value, without_credentials

log = logging.getLogger(__name__)

# Every call may fail in the same way: one line a minute says so.
AGAIN_AFTER_S = 60.0
_MOST_KNOWN = 256
_KEY = secrets.token_bytes(32)
_said: OrderedDict[str, float] = OrderedDict()

E = TypeVar("E", bound=SidecarError)


def heard(text: str) -> tuple[str, tuple[str, ...]]:
    """A text about a request, for the tenant, and what was taken out of it."""
    found = redact(text)
    return found.text, found.withheld


def withholding(error: E, withheld: tuple[str, ...]) -> E:
    """`error` whose text lacks `withheld`, which the log gets. Nothing is done where nothing is missing."""
    if withheld:
        _log(error, "names in a provider's error are withheld from the tenant", withheld=list(withheld))
    return error


def closed(error: E, said: str) -> E:
    """`error` with a message of our own; `said` is for the operator alone: never content, so it may be logged."""
    said = without_credentials(said)
    error.inside = f"{error.message}: {said}" if said else error.message
    if said:
        identifier = _log(error, "a provider's error is withheld from the tenant", said=said)
        error.message = f"{error.message}; the operator's log says why: error {identifier}"
        error.args = (error.message,)
    return error


def detail(value: Any) -> Any:
    return redact_value(value)


def token(value: Any, *, longest: int = 64, also: str = "._-") -> str:
    """A type, code or id as they are written everywhere, else nothing: such a field is no place for sentences."""
    text = "" if value is None else str(value)
    is_plain = text.isascii() and all(c.isalnum() or c in also for c in text)
    return text if is_plain and len(text) <= longest else ""


def _log(error: SidecarError, what: str, **facts: Any) -> str:
    identifier = hmac.digest(_KEY, repr((error.code, facts)).encode(), "sha256").hex()[:12]
    error.details["error_id"] = identifier
    now = time.monotonic()
    if now >= _said.pop(identifier, -AGAIN_AFTER_S) + AGAIN_AFTER_S:
        facts |= {name: error.details[name] for name in ("provider_code", "request_id") if name in error.details}
        log.warning(what, extra={"error_id": identifier, "code": error.code, **facts})
        _said[identifier] = now
        if len(_said) > _MOST_KNOWN:
            _said.popitem(last=False)
    return identifier
