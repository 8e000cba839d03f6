"""Jobs as clients see them. Pure."""

import msgspec

from sidecar.models.base import rfc3339
from sidecar.models.job import JobState, JobView
from sidecar.models.replica import QueuedJob


def queued_view(queued: QueuedJob) -> JobView:
    """A job whose request is stored and of which nothing else is known."""
    stored_at = rfc3339(queued.stored_at)
    return JobView(
        job=queued.job,
        tenant=queued.tenant,
        job_class=queued.job_class,
        state="queued",
        attempt=0,
        owner=None,
        model=None,
        request_seq=queued.seq,
        created=stored_at,
        updated=stored_at,
        ahead=queued.ahead,
        estimate_ms=queued.estimate_ms,
    )


def view_of(state: JobState, queued: QueuedJob | None = None) -> JobView:
    """A job by its document, with its place in the queue where it is there."""
    fields = {name: getattr(state, name) for name in state.__struct_fields__}
    if queued is not None:
        fields |= {"ahead": queued.ahead, "estimate_ms": queued.estimate_ms}
    return JobView(**fields)


def listed(state: JobState) -> JobView:
    """The same without its result, whose error's code stays."""
    error = state.result.error.code if state.result is not None and state.result.error is not None else None
    return msgspec.structs.replace(view_of(state), result=None, error_code=error)
