"""What goes wrong with tools on their provider's side."""

from typing import ClassVar

from sidecar.errors import ErrorCode, Permanent

FAILED = 500


class ToolError(Exception):
    """Raised in a tool's function to tell the model what went wrong: the message is shown as it is.

    `code` goes into the error reply, after HTTP (400 to 599): 4xx for what other arguments would mend, 5xx for
    what they would not. Any other exception shows only its type, since its text may hold what is nobody's
    business.
    """

    def __init__(self, message: str, *, code: int = FAILED) -> None:
        if not 400 <= code <= 599:
            raise ValueError(f"code {code}: give one of 400 to 599")
        super().__init__(message)
        self.message = message
        self.code = code


class ToolCancelled(ToolError):
    """Raised by `ToolContext.raise_if_cancelled`: nobody waits for this call any more."""

    def __init__(self, message: str = "the call was cancelled") -> None:
        super().__init__(message, code=499)


class InvalidTool(Permanent, TypeError):
    """A function cannot be a tool as it is written; the message names it, its parameter, and the remedy."""

    default_code: ClassVar[ErrorCode] = "invalid_request"
