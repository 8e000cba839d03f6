"""The trace that a job belongs to, for whatever is said on its behalf by its task or by tasks that it started."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from sidecar.models.subjects import TRACE_HEADERS

_NONE: Mapping[str, str] = MappingProxyType({})
TRACE: ContextVar[Mapping[str, str]] = ContextVar("trace", default=_NONE)
"""The headers `traceparent` and `tracestate` of what is done now; empty without a trace."""


def trace_of(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What of a message's headers tells its trace."""
    if TRACE_HEADERS[0] not in headers:
        return _NONE
    return {name: headers[name] for name in TRACE_HEADERS if name in headers}


@contextmanager
def within_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """What is done inside belongs to the trace of `headers`, or to the one that is there already."""
    found = TRACE.get() or trace_of(headers)
    token = TRACE.set(found)
    try:
        yield
    finally:
        TRACE.reset(token)
