"""What stands behind a refusal, in our own words: what to mend, and who can. Pure.

Texts of AWS about who may call stay with the operator (`foreign`); what is said here names no account, key or
host, so that a tenant may read it.
"""

import re
import time
from datetime import UTC, datetime
from typing import NamedTuple

from sidecar.adapters.bedrock.aws_time import OF_SIGNATURES, SUSPECT_S

USE_CASE = re.compile(r"use.case (details|form)|submit .*use.case", re.IGNORECASE)
TOO_LARGE_TYPES = frozenset({"requestentitytoolarge", "payloadtoolarge", "contenttoolarge", "requesttoolarge"})
TOO_LARGE = "the request is larger than Bedrock takes: send less text, or fewer or smaller images and documents"
SERVICE_QUOTA = (
    "a service quota of the account is used up: the operator asks for more in the Service Quotas console"
)

_EXPIRED = frozenset({"expiredtoken", "requestexpired"})
_UNKNOWN_KEY = frozenset({"unrecognizedclient", "invalidclienttokenid"})
_TIMES = re.compile(r"(\d{8}T\d{6}Z) is (?:now earlier|still later) than \d{8}T\d{6}Z \((\d{8}T\d{6}Z)")
_OF_TIME = re.compile(r"signature (has )?expired|not yet current|too skewed|request has expired", re.IGNORECASE)
_NOT_ALLOWED = re.compile(r"is not authorized to perform|explicit deny|not authorized", re.IGNORECASE)
_NO_MODEL_ACCESS = re.compile(r"(don't|do not|doesn't) have access to the model|marketplace", re.IGNORECASE)


class Cause(NamedTuple):
    """`behind_s`: by how many seconds the time of the signature was behind AWS's, where that was the cause."""

    text: str = ""
    behind_s: int | None = None


def cause_of_denial(kind: str, message: str, *, date: float | None) -> Cause:
    """Why a call was refused; empty where nobody knows. `date`: the answer's, seconds since 1970."""
    if USE_CASE.search(message):
        return Cause(
            "the use case form that this model's provider asks for was not submitted for the account: the "
            "operator submits it in the Bedrock console (model access), and tries again 15 minutes later"
        )
    if kind in OF_SIGNATURES:
        behind_s = _behind(message, date)
        if behind_s is not None:
            return Cause(f"{_clock(behind_s)}: the operator sets it by a time server (NTP)", behind_s)
        if _OF_TIME.search(message):
            return Cause(
                "the clock of the sidecar's machine is wrong: the operator sets it by a time server (NTP)"
            )
    if kind in _EXPIRED:
        return Cause("the sidecar's credentials have expired: the operator renews them")
    if kind in _UNKNOWN_KEY:
        return Cause("AWS does not know the sidecar's access key: the operator corrects its credentials")
    if _NO_MODEL_ACCESS.search(message):
        return Cause("the account has no access to this model: the operator asks for it in the Bedrock console")
    if _NOT_ALLOWED.search(message):
        return Cause("the sidecar's IAM policy does not allow it: the operator allows bedrock:InvokeModel")
    return Cause()


def _behind(message: str, date: float | None) -> int | None:
    """Seconds by which a signature was behind, by the refusal's words, else by its date; None if it was not."""
    said = _TIMES.search(message)
    if said is not None:
        return round(_moment(said[2]) - _moment(said[1]))
    if date is None:
        return None
    behind_s = round(date - time.time())
    return behind_s if abs(behind_s) >= SUSPECT_S else None


def _moment(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _clock(behind_s: int) -> str:
    way = "behind" if behind_s >= 0 else "ahead of"
    return f"the clock of the sidecar's machine is {abs(behind_s)} s {way} AWS's"
