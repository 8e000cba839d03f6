"""The trace that a job belongs to, for whatever is said on its behalf by its task or by tasks that it started."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from sidecar.models.subjects import TRACE_HEADERS

# Of any version: later ones may be longer (https://www.w3.org/TR/trace-context/, versioning).
_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,256})?")
_STATE = re.compile(r"[ -~]{1,512}")
_NONE: Mapping[str, str] = MappingProxyType({})
TRACE: ContextVar[Mapping[str, str]] = ContextVar("trace", default=_NONE)
"""The headers `traceparent` and `tracestate` of what is done now; empty without a trace."""


def trace_of(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What of a message's headers tells its trace, and may stand in a header that we write.

    The values are a stranger's and go out again with every event, tool call and job below the job: what W3C Trace
    Context does not allow (a line break above all) would be refused there, and the job with it. It counts as none.
    """
    parent = headers.get(TRACE_HEADERS[0])
    if parent is None or not _PARENT.fullmatch(parent):
        return _NONE
    state = headers.get(TRACE_HEADERS[1])
    if state is None or not _STATE.fullmatch(state):
        return {TRACE_HEADERS[0]: parent}
    return {TRACE_HEADERS[0]: parent, TRACE_HEADERS[1]: state}


@contextmanager
def within_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """What is done inside belongs to the trace of `headers`, or to the one that is there already."""
    found = TRACE.get() or trace_of(headers)
    token = TRACE.set(found)
    try:
        yield
    finally:
        TRACE.reset(token)
