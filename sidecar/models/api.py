"""Payloads of the request/reply endpoints that are not jobs, events or tools."""

from functools import cache
from typing import Annotated, Any

import msgspec

from sidecar.errors import ErrorCode
from sidecar.models.base import JobClass, Open, Strict
from sidecar.models.job import JobView, State
from sidecar.models.job_filter import JobFilter, Scalar, When


class Empty(Strict, frozen=True, kw_only=True):
    """A request without fields: `{}`, or no payload at all."""


class CancelRequest(Strict, frozen=True, kw_only=True):
    reason: Annotated[str, msgspec.Meta(max_length=1024)] | None = None


class CancelReply(Open, frozen=True, kw_only=True):
    """`state` is what the job is in when the reply leaves; `unknown` for an id not seen yet.

    `cancelled`: it ended so. `requested`: it has not ended yet, and the mark by which it is to end stands.
    Neither: it ended otherwise.
    """

    job: str
    tenant: str
    state: str
    cancelled: bool
    requested: bool = False


class ReplayRequest(Strict, frozen=True, kw_only=True):
    """Events after this place; from the start when both are 0."""

    attempt: Annotated[int, msgspec.Meta(ge=0)] = 0
    n: Annotated[int, msgspec.Meta(ge=0)] = 0


Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class JobsRequest(Strict, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """Which of a tenant's jobs to list: those that fit all that is given, see `JobFilter`."""

    state: State | None = None
    job_class: JobClass | None = None
    error: ErrorCode | None = None
    since: When | None = None
    until: When | None = None
    metadata: dict[str, Scalar] = {}
    limit: Limit = 100
    cursor: str | None = None

    def filter_of(self, tenant: str) -> JobFilter:
        return JobFilter(
            tenant=tenant,
            state=self.state,
            job_class=self.job_class,
            error=self.error,
            since=self.since,
            until=self.until,
            metadata=self.metadata,
        )


class AdminJobsRequest(JobFilter, frozen=True, kw_only=True):
    """Which jobs of all tenants to list."""

    limit: Limit = 100
    cursor: str | None = None


class JobsPage(Open, frozen=True, kw_only=True):
    """Newest first, without results. `cursor` asks for the next page; None on the last: a page may be short.

    `unread` counts queued jobs whose payload nobody has read yet: no filter on metadata can see them.
    """

    jobs: tuple[JobView, ...]
    cursor: str | None = None
    unread: int = 0


class ModelInfo(Open, frozen=True, kw_only=True):
    """A model as a tenant may use it; `unusable` says why not, where it cannot be used."""

    alias: str
    model_id: str
    family: str
    name: str
    quality: str
    context_tokens: int
    max_output_tokens: int
    capabilities: tuple[str, ...]
    lifecycle: str
    regions: tuple[str, ...]
    price_input_usd_per_mtok: float | None
    price_output_usd_per_mtok: float | None
    health: str
    unusable: str | None = None


class ModelsPage(Open, frozen=True, kw_only=True):
    models: tuple[ModelInfo, ...]


class ErrorBody(Open, frozen=True, kw_only=True):
    code: ErrorCode | str
    message: str
    details: dict[str, Any] = {}


class ErrorReply(Open, frozen=True, kw_only=True):
    """Body of an error reply; the same code and message stand in the `Nats-Service-Error` headers."""

    error: ErrorBody


def schemas_of(request: Any, response: Any) -> dict[str, str]:
    """An endpoint's metadata (ADR-32): the JSON Schemas of what goes in and comes back; None for what has none."""
    given = {"schema.request": request, "schema.response": response}
    return {name: _schema_text(kind) for name, kind in given.items() if kind is not None}


@cache
def _schema_text(kind: Any) -> str:
    # Some milliseconds a model: made once a process.
    return msgspec.json.encode(msgspec.json.schema(kind)).decode()
