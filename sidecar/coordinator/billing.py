"""Whether a call that failed may be on the provider's bill, and whether it uses up the job's calls. Pure."""

from copy import copy
from typing import Any, NamedTuple

from sidecar.errors import CallTimeout, ModelFailed, SidecarError, StreamInterrupted


class Toll(NamedTuple):
    """`may_be_billed`: it may stand on the bill. `counts`: it is one of the `jobs.max_calls` of its turn."""

    may_be_billed: bool
    counts: bool


FREE = Toll(may_be_billed=False, counts=False)
BILLED = Toll(may_be_billed=True, counts=True)
# Trouble of the service or of the way there: it may be billed, and never ends a job that has time.
BILLED_AND_NOT_COUNTED = Toll(may_be_billed=True, counts=False)


def toll_of(error: SidecarError, *, is_heard: bool) -> Toll:
    """The toll of a call that ended with `error`; `is_heard`: content of its answer had come.

    What was refused before the model began costs nothing: 429, 5xx, 4xx, no connection.
    """
    if is_heard or error.reached == "answered" or isinstance(error, ModelFailed | StreamInterrupted):
        return BILLED
    if isinstance(error, CallTimeout):
        return FREE if error.limit == "connect" else BILLED_AND_NOT_COUNTED
    return BILLED_AND_NOT_COUNTED if error.reached == "sent" else FREE


def bounded(error: SidecarError, limit: str, **details: Any) -> SidecarError:
    """`error` as that which ends a job at a bound: the same, and `details.limit` names the bound."""
    # A copy: the entry of the call that it ended shows the details as they were.
    ending = copy(error)
    ending.details = {**error.details, "limit": limit, **details}
    return ending
