"""Every subject and bucket name of the protocol, in one place."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.errors import InvalidRequest
from sidecar.models.base import NAME_PATTERN
from sidecar.models.event import EventType

VERSION = "v1"
REQUEST_STREAM = "LLM_REQ"
DEAD_STREAM = "LLM_DEAD"
JOB_BUCKET = "LLM_JOB"
JOB_STREAM = "KV_LLM_JOB"
TOOL_BUCKET = "LLM_TOOL"
PROMPT_BUCKET = "LLM_PROMPT"
CONFIG_BUCKET = "LLM_CONFIG"
CANCEL_BUCKET = "LLM_CANCEL"
CONTROL_BUCKET = "LLM_CTL"
SPEND_STREAM = "LLM_SPEND"
SPEND_DAYS_STREAM = "LLM_SPEND_DAYS"
BLOB_BUCKET_PREFIX = "LLM_BLOB_"

HEADER_JOB_ID = "Llm-Job-Id"
HEADER_TENANT = "Llm-Tenant"
HEADER_CLASS = "Llm-Class"
HEADER_END = "Llm-End"
HEADER_TOOL_USE_ID = "Llm-Tool-Use-Id"
HEADER_DEADLINE = "Llm-Deadline"
HEADER_TIME_LEFT = "Llm-Time-Left"
HEADER_IDEMPOTENCY_KEY = "Idempotency-Key"
HEADER_DEPTH = "Llm-Depth"
HEADER_TOOL_PROGRESS = "Llm-Tool-Progress"
IN_PROGRESS = "in_progress"
SHARED_SCOPE = "shared"
TRACE_HEADERS = ("traceparent", "tracestate")
# What JetStream and its key-value layout read.
HEADER_MESSAGE_ID = "Nats-Msg-Id"
HEADER_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
HEADER_EXPECTED_OF = "Nats-Expected-Last-Subject-Sequence-Subject"
HEADER_TTL = "Nats-TTL"
HEADER_ROLLUP = "Nats-Rollup"
HEADER_OPERATION = "KV-Operation"

is_name: Callable[[str], object] = re.compile(NAME_PATTERN).fullmatch
"""Whether a token may stand for a tenant, job, scope or tool: something true where it may, else None."""
_NAMES = "use 1 to 64 of A-Z a-z 0-9 _ -"
_DERIVED = re.compile(r"s[0-9]+")


def checked(token: str, *, what: str = "", path: str = "") -> str:
    """The token, where it is a name. Raises InvalidRequest for what would address something else, as `*` does.

    `what` says in the error's text what the token is, where nobody sees the `path`.
    """
    if not is_name(token):
        raise InvalidRequest(f"{what} {token[:80]!r}: {_NAMES}".lstrip(), path=path)
    return token


def check_job_id(given: str) -> str | None:
    """What is wrong with a job id that a client gives; None for a good one.

    Names of the form `s<number>` are for requests without an id: one of those, accepted later, would count as
    known already and be dropped.
    """
    if not is_name(given):
        return _NAMES
    if _DERIVED.fullmatch(given):
        return "names of the form s<number> are kept for requests without an id: choose another"
    return None


def call_cancelled(call_subject: str) -> str:
    """Where all providers of a tool's version hear that the sidecar waits for a call no more."""
    return f"{call_subject}.cancel"


def version_token(version: str) -> str:
    """A tool's version as one token of a key. No part of a semantic version holds `_` or `=`."""
    return version.replace(".", "_").replace("+", "=")


def token_version(token: str) -> str:
    """The version that `version_token` (or a call subject) wrote so."""
    return token.replace("_", ".").replace("=", "+")


def job_key(tenant: str, job: str) -> str:
    """The key of a job's documents: its state, the mark that it is cancelled. Raises InvalidRequest."""
    if is_name(tenant) and is_name(job):
        return f"{tenant}.{job}"
    return f"{checked(tenant)}.{checked(job)}"


def journal_key(tenant: str, job: str) -> str:
    """The key of a job's steps in the bucket of jobs, beside its state document. Raises InvalidRequest."""
    return f"{job_key(tenant, job)}.journal"


@dataclass(frozen=True, slots=True)
class Subjects:
    """The protocol's subjects under one prefix (setting `nats.prefix`, default `llm`)."""

    prefix: str = "llm"

    @property
    def root(self) -> str:
        return f"{self.prefix}.{VERSION}"

    def request(self, tenant: str, job_class: str) -> str:
        return f"{self.prefix}.{VERSION}.request.{tenant}.{job_class}"

    def event(self, tenant: str, job: str, kind: EventType | str) -> str:
        """Where clients hear an event of a job."""
        return f"{self.prefix}.{VERSION}.job.{tenant}.{job}.{kind}"

    def log(self, tenant: str, job: str, kind: EventType | str) -> str:
        """Where an event of a job is stored, before the server republishes it."""
        return f"{self.prefix}.{VERSION}.log.{tenant}.{job}.{kind}"

    def endpoint(self, verb: str, *tokens: str) -> str:
        """A request/reply endpoint: `ask`, `cancel`, `get`, `replay`, `jobs`, `models`, `tools`."""
        return ".".join((self.prefix, VERSION, verb, *tokens))

    def call(self, scope: str, tool: str, version: str) -> str:
        """Where a tool's provider listens. The version's dots become underscores."""
        return f"{self.prefix}.{VERSION}.call.{scope}.{tool}.{version.replace('.', '_')}"

    def doorbell(self, tenant: str, job_class: str) -> str:
        """Where the server tells the replicas, headers only, of a request that it stored."""
        return f"{self.prefix}.{VERSION}.sys.doorbell.{tenant}.{job_class}"

    def tool_written(self, *tokens: str) -> str:
        """Where the server tells the replicas of what was written to the bucket of tools."""
        return self.sys("tool", *tokens)

    def dead(self, tenant: str, job: str) -> str:
        """Where the request of a job that crashed too often is kept."""
        return f"{self.prefix}.{VERSION}.dead.{tenant}.{job}"

    def spend(self, tenant: str, day: str) -> str:
        """The counter of what a tenant spent on a day, `yyyymmdd`, in millionths of a US dollar."""
        return f"{self.prefix}.{VERSION}.spend.{tenant}.{day}"

    def spend_day(self, tenant: str, day: str) -> str:
        """The sums of what a tenant's jobs took on a day, `yyyy-mm-dd`."""
        return f"{self.prefix}.{VERSION}.spent.{tenant}.{day}"

    @property
    def spend_cursor(self) -> str:
        """How far the results are summed up."""
        return f"{self.prefix}.{VERSION}.spent_to"

    def sys(self, *tokens: str) -> str:
        return ".".join((self.prefix, VERSION, "sys", *tokens))
