"""How long a job may take, and what happens on a bus that refuses its records."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.errors import BusRefused, BusUnavailable, CallTimeout, Conflict, Permanent
from sidecar.job_manager.job import OwnedJob
from sidecar.models.base import epoch

log = logging.getLogger(__name__)


@contextmanager
def time_limits(job: OwnedJob, *, default_s: float) -> Iterator[float]:
    """Stop the job when its time is over: `timeout_s` from its first attempt's start, without the time that it was
    held since; or its deadline.

    Yields that moment, in seconds since 1970.
    """
    now = job.clock.now()
    timeout_s = job.request.timeout_s or default_s
    started = epoch(job.state.started) if job.state.started else now
    ends_at = started + timeout_s + job.state.held_s
    deadline, is_by_deadline = job.request.deadline, False
    if deadline is not None and deadline.timestamp() < ends_at:
        ends_at, is_by_deadline = deadline.timestamp(), True

    def stop() -> None:
        if is_by_deadline:
            job.scope.stop(Permanent("the deadline passed while the job ran", code="deadline_exceeded"))
        else:
            job.scope.stop(CallTimeout(f"the job did not end within {timeout_s:g} s", limit="total"))

    timer = job.clock.call_later(max(0.0, ends_at - now), stop)
    try:
        yield ends_at
    finally:
        timer.cancel()


@contextmanager
def left_to_the_next_reading(job: str) -> Iterator[None]:
    """A bus that refuses to store what a job needs ends neither the job nor the process.

    The request still stands, so the next reconcile takes it up again.
    """
    try:
        yield
    except (BusRefused, BusUnavailable, Conflict) as e:
        log.error("the bus refused a job's records", extra={"job": job, "error": e.message})
