"""What operators do to many jobs at once, and tenants to one that failed."""

from typing import Annotated

import msgspec

from sidecar.models.api import ErrorBody
from sidecar.models.base import Open, Strict
from sidecar.models.job_filter import JobFilter

Limit = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class BulkCancelRequest(JobFilter, frozen=True, kw_only=True):
    """Which jobs to cancel, oldest first, at most `limit`. `dry_run` tells which, and does nothing."""

    limit: Limit | None = None
    dry_run: bool = False
    reason: Annotated[str, msgspec.Meta(max_length=1024)] | None = None


class BulkRetryRequest(JobFilter, frozen=True, kw_only=True):
    """Which failed jobs to run again, oldest first, at most `limit`. `dry_run` tells which, and does nothing.

    `keep`: their requests stay in `LLM_DEAD`, to be run again once more.
    """

    limit: Limit | None = None
    dry_run: bool = False
    keep: bool = False


class RetryRequest(Strict, frozen=True, kw_only=True):
    """As for many, for the one job that the subject names."""

    dry_run: bool = False
    keep: bool = False


class JobName(Open, frozen=True, kw_only=True):
    tenant: str
    job: str


class BulkCancelled(Open, frozen=True, kw_only=True):
    """A part of the answer: 500 jobs at most, none while the search goes on. `count` is of all parts so far.

    An empty reply with `Llm-End` follows the last. The marks stand; each job's end is in its result.
    """

    jobs: tuple[JobName, ...]
    count: int
    dry_run: bool = False


class RetriedJob(Open, frozen=True, kw_only=True):
    """`retried_as` is the id under which it runs again, or would; null where `error` says why it does not.

    `before`: it was run again before, under that id.
    """

    tenant: str
    job: str
    retried_as: str | None = None
    before: bool = False
    error: ErrorBody | None = None


class BulkRetried(Open, frozen=True, kw_only=True):
    """A part of the answer: 500 jobs at most, none while the search goes on. `count` is of jobs run again so far.

    An empty reply with `Llm-End` follows the last.
    """

    jobs: tuple[RetriedJob, ...]
    count: int
    dry_run: bool = False
