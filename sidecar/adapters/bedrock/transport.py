"""What both transports offer the manager, and how trouble on the way is told apart."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sidecar.adapters.bedrock.foreign import closed, token
from sidecar.adapters.bedrock.guardrail import GuardrailRequest
from sidecar.adapters.bedrock.wire import StreamEvent
from sidecar.errors import CallTimeout, ModelFailed, ModelUnavailable, StreamInterrupted, Temporary
from sidecar.models.call import CallLimits

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
EVENT_STREAM = "application/vnd.amazon.eventstream"


class CallTarget(NamedTuple):
    region: str
    invoke_id: str


class BrokenStream(Exception):
    """A stream broke off; what that means depends on how far the answer had come.

    `is_garbled`: what came is not an event stream, as against one that was cut.
    """

    def __init__(
        self, message: str, *, said: str = "", is_garbled: bool = False, request_id: str | None = None
    ) -> None:
        """`said`: what a library says of it, which is for the operator alone."""
        super().__init__(message)
        self.said = said
        self.is_garbled = is_garbled
        self.request_id = token(request_id, longest=128)

    def to_error(self, *, has_content: bool) -> Temporary:
        details = {"request_id": self.request_id} if self.request_id else None
        if has_content:
            return closed(StreamInterrupted(f"Bedrock's answer broke off: {self}", details=details), self.said)
        kind = ModelFailed if self.is_garbled else ModelUnavailable
        error = closed(kind(f"Bedrock's answer broke off before it began: {self}", details=details), self.said)
        error.reached = "answered"
        return error


class EventReader(Protocol):
    """One open stream."""

    async def read(self) -> Sequence[StreamEvent]:
        """The events that have come since; waits for one. Empty at the end.

        Raises BrokenStream, the typed error of an exception frame, or what `fail` was given.
        """
        ...

    def fail(self, error: CallTimeout) -> None:
        """Make the read that waits, or the next one, raise `error`."""
        ...

    async def close(self) -> None:
        """Let go of the connection: back to the pool when the stream was read to its end, else closed."""
        ...


class Transport(Protocol):
    async def converse(
        self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits
    ) -> bytes | Mapping[str, Any]:
        """The body of an answer with status 200, as JSON or parsed. Raises the typed errors of a call."""
        ...

    async def apply_guardrail(
        self, region: str, request: GuardrailRequest, limits: CallLimits
    ) -> bytes | Mapping[str, Any]:
        """The verdict with status 200, as JSON or parsed. Raises the typed errors of a call."""
        ...

    async def open_stream(self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits) -> EventReader:
        """A stream whose status 200 has come. Raises the typed errors of a call."""
        ...

    async def close(self) -> None: ...


class DoubtfulReader:
    """A stream whose content type says that it is none: its frames decide. `doubt` is raised where there are none.

    Proxies rename the type, and pages of theirs come in place of streams.
    """

    def __init__(self, reader: EventReader, doubt: ModelFailed) -> None:
        self._reader = reader
        self._doubt: ModelFailed | None = doubt

    async def read(self) -> Sequence[StreamEvent]:
        if self._doubt is None:
            return await self._reader.read()
        try:
            events = await self._reader.read()
        except BrokenStream as e:
            if e.is_garbled:
                raise self._doubt from e
            raise
        if not events:
            raise self._doubt
        self._doubt = None
        return events

    def fail(self, error: CallTimeout) -> None:
        self._reader.fail(error)

    async def close(self) -> None:
        await self._reader.close()


def not_a_stream(content_type: str, request_id: str | None) -> ModelFailed:
    details = {"provider_code": "not_a_stream", "request_id": token(request_id, longest=128)}
    kind = token(content_type.split(";", 1)[0].strip(), also="/+._-") or "no content type"
    return ModelFailed(
        f"Bedrock answered with HTTP 200 and {kind} in place of an event stream",
        details={key: value for key, value in details.items() if value},
    )
