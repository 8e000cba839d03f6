"""From a stored message to a request, or to the reason why it is none. Pure."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from sidecar.coordinator.service import Selection
from sidecar.errors import InvalidRequest, SidecarError
from sidecar.models.base import JOB_CLASSES, epoch
from sidecar.models.codec import decode_request
from sidecar.models.prompt import PromptUse
from sidecar.models.request import JobRequest
from sidecar.models.subjects import HEADER_DEADLINE, HEADER_JOB_ID, check_job_id, is_name
from sidecar.ports.bus import StoredRequest


class AdmissionPlan(NamedTuple):
    """What admission found out, for the call that follows: the request with its template filled in, which template
    that was, who can answer it, and how many tokens it sends. A long one stands as it came: it is filled in again.
    """

    request: JobRequest
    prompt: PromptUse | None
    selection: Selection
    input_tokens: int


class DecodedRequest(msgspec.Struct):
    """A request that was read. `job` always stands, so that a refusal can be said, too.

    `plan` is there once the job was admitted by this replica, as long as memory lasts: it can be made again.
    """

    stored: StoredRequest
    job: str
    request: JobRequest | None
    refusal: SidecarError | None = None
    plan: AdmissionPlan | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        return self.request.metadata if self.request is not None else {}


def job_of(stored: StoredRequest) -> tuple[str, InvalidRequest | None]:
    """The job's id: the header's, or `s<sequence>` without one or with one that is no name."""
    given = stored.headers.get(HEADER_JOB_ID)
    derived = f"s{stored.seq}"
    if given is None:
        return derived, None
    problem = check_job_id(given)
    if problem is None:
        return given, None
    return derived, InvalidRequest(f"header {HEADER_JOB_ID} is {given[:80]!r}: {problem}", path=HEADER_JOB_ID)


def open_request(stored: StoredRequest) -> DecodedRequest:
    """Read a stored message. Whatever it is, the answer says which job it stands for."""
    job, refusal = job_of(stored)
    refusal = refusal or _subject_refusal(stored)
    if refusal is not None:
        return DecodedRequest(stored, job, None, refusal)
    try:
        request = decode_request(stored.payload)
    except InvalidRequest as e:
        return DecodedRequest(stored, job, None, e)
    given = stored.headers.get(HEADER_DEADLINE)
    if given is None:
        return DecodedRequest(stored, job, request)
    try:
        return DecodedRequest(stored, job, _due(request, given))
    except InvalidRequest as e:
        return DecodedRequest(stored, job, request, e)


def _due(request: JobRequest, given: str) -> JobRequest:
    """The request with the earlier of its two deadlines. Raises InvalidRequest for a header that is no time."""
    try:
        deadline = datetime.fromtimestamp(epoch(given), UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest(
            f"header {HEADER_DEADLINE} is {given[:80]!r}: give an RFC 3339 time with a zone, such as "
            "2026-12-01T10:00:00.000Z",
            path=f"headers.{HEADER_DEADLINE}",
        ) from None
    if request.deadline is not None and request.deadline <= deadline:
        return request
    return msgspec.structs.replace(request, deadline=deadline)


def _subject_refusal(stored: StoredRequest) -> InvalidRequest | None:
    tenant, job_class = stored.lane
    if not is_name(tenant):
        return InvalidRequest(
            f"the subject's tenant {tenant[:80]!r} is not valid: use 1 to 64 of A-Z a-z 0-9 _ -",
            path="subject.tenant",
        )
    if job_class not in JOB_CLASSES:
        return InvalidRequest(
            f"the subject's class {job_class[:80]!r} is not known: use {', '.join(JOB_CLASSES)}",
            path="subject.class",
        )
    return None
