"""Exit codes, and what each error or result means as one. Pure."""

from typing import TYPE_CHECKING

from sidecar.errors import BusRefused, BusUnavailable, CallTimeout, InvalidRequest, SidecarError, StartupError

if TYPE_CHECKING:
    from sidecar.models.result import Result

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
TIMEOUT = 4
QUOTA = 5
INTERRUPTED = 130

_BY_CODE = {
    "quota_exceeded": QUOTA,
    "budget_exceeded": QUOTA,
    "queue_full": QUOTA,
    "rate_limited": QUOTA,
    "timeout": TIMEOUT,
    "deadline_exceeded": TIMEOUT,
}


def of_error(error: SidecarError) -> int:
    """The exit code for an error that ended a command."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    for kind, code in (
        (InvalidRequest, USAGE),
        (StartupError, USAGE),
        (BusUnavailable, UNREACHABLE),
        (BusRefused, UNREACHABLE),
        (CallTimeout, TIMEOUT),
    ):
        if isinstance(error, kind):
            return code
    return UNREACHABLE if error.code == "access_denied" else FAILED


def of_result(result: "Result") -> int:
    """The exit code for how a job ended."""
    if result.state == "succeeded":
        return OK
    return _BY_CODE.get(result.error.code, FAILED) if result.error is not None else FAILED
