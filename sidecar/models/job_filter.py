"""Which jobs an operator means: one filter for listing, cancelling and running again."""

from datetime import datetime
from typing import Annotated

import msgspec

from sidecar.errors import ErrorCode
from sidecar.models.base import JobClass, Name, Strict, epoch
from sidecar.models.job import JobState, State

When = Annotated[datetime, msgspec.Meta(tz=True)]
Scalar = str | int | float | bool | None


class JobFilter(Strict, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """Jobs that fit all that is given. `since` and `until` bound the time at which the request was stored.

    `error` is the code of a job's end, `metadata` the pairs that a request's metadata must hold.
    """

    tenant: Name | None = None
    state: State | None = None
    job_class: JobClass | None = None
    error: ErrorCode | None = None
    since: When | None = None
    until: When | None = None
    metadata: dict[str, Scalar] = {}

    @property
    def is_empty(self) -> bool:
        """Whether it fits every job."""
        given = (self.tenant, self.state, self.job_class, self.error, self.since, self.until)
        return not self.metadata and all(value is None for value in given)

    def matches(self, job: JobState) -> bool:
        """Whether a job is meant, as its document says; `error` needs the document with its result."""
        if self.tenant not in (None, job.tenant) or self.state not in (None, job.state):
            return False
        if self.job_class not in (None, job.job_class) or not self.covers(epoch(job.created)):
            return False
        return self._fits_error(job) and self.fits_metadata(job.metadata)

    def _fits_error(self, job: JobState) -> bool:
        if self.error is None:
            return True
        return job.result is not None and job.result.error is not None and job.result.error.code == self.error

    def covers(self, created: float) -> bool:
        """Whether a time, in seconds since 1970, lies from `since` to before `until`."""
        if self.since is not None and created < self.since.timestamp():
            return False
        return self.until is None or created < self.until.timestamp()

    def fits_metadata(self, metadata: dict[str, Scalar]) -> bool:
        """Whether a request's metadata holds all pairs that are asked for."""
        return all(_is_same(metadata.get(name, ...), value) for name, value in self.metadata.items())


def _is_same(found: object, wanted: Scalar) -> bool:
    # What a command line gives is text: `--where ticket=42` means 42 and "42".
    if isinstance(wanted, str) and isinstance(found, int | float) and not isinstance(found, bool):
        return wanted == str(found)
    if isinstance(wanted, str) and isinstance(found, bool):
        return wanted == ("true" if found else "false")
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
