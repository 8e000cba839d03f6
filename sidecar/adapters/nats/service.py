"""What a NATS micro service (ADR-32) says about itself and about errors. Pure values."""

import msgspec

from sidecar.errors import STATUS_CODES, BusUnavailable, Conflict, SidecarError
from sidecar.models.api import ErrorBody, ErrorReply
from sidecar.ports.bus import Reply
from sidecar.runtime.redaction import told

QUEUE_GROUP = "q"
ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"

_MAX_HEADER_TEXT = 512


class EndpointStats(msgspec.Struct, kw_only=True):
    """Counters of one endpoint; times in nanoseconds, as ADR-32 has them."""

    name: str
    subject: str
    queue_group: str
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0

    def count(self, elapsed_ns: int, error: str | None, *, times: int = 1) -> None:
        self.num_requests += times
        self.processing_time += elapsed_ns
        self.average_processing_time = self.processing_time // self.num_requests
        if error is not None:
            self.num_errors += times
            self.last_error = error


class EndpointInfo(msgspec.Struct, kw_only=True):
    name: str
    subject: str
    queue_group: str
    metadata: dict[str, str]


class Identity(msgspec.Struct, kw_only=True):
    """The reply to PING, and the beginning of the other two."""

    type: str = "io.nats.micro.v1.ping_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str]


class Info(Identity, kw_only=True):
    type: str = "io.nats.micro.v1.info_response"
    description: str
    endpoints: list[EndpointInfo]


class ServiceStats(Identity, kw_only=True):
    type: str = "io.nats.micro.v1.stats_response"
    started: str
    endpoints: list[EndpointStats]


def error_reply(error: SidecarError) -> Reply:
    """`error` as ADR-32 headers and as the protocol's body."""
    message = told(error)
    body = ErrorReply(error=ErrorBody(code=error.code, message=message, details=error.details))
    return Reply(
        msgspec.json.encode(body, enc_hook=str),
        {ERROR_CODE_HEADER: str(status_of(error)), ERROR_HEADER: _one_line(message) or error.code},
    )


def status_of(error: SidecarError) -> int:
    """The number that stands for an error: by its code, or by its kind where the code says nothing."""
    if error.code == "internal":
        if isinstance(error, Conflict):
            return 409
        if isinstance(error, BusUnavailable):
            return 503
    return STATUS_CODES.get(error.code, 500)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_HEADER_TEXT]
