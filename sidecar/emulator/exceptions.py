"""What Bedrock's runtime can refuse a call with: error type, HTTP status, in-stream name, usual message.

Types and statuses are those of botocore's service model of `bedrock-runtime`, plus the ones that the front end
answers before the service is reached (signature, token). Messages are those that clients of the service report.
"""

from typing import Any, NamedTuple

THROTTLED_TOKENS = "Too many tokens, please wait before trying again."
THROTTLED_REQUESTS = "Too many requests, please wait before trying again."
THROTTLED_CONNECTIONS = "Too many connections, please wait before trying again."
THROTTLED_DAY = "Too many tokens per day, please wait before trying again."
INVALID_MODEL = "The provided model identifier is invalid."


class ExceptionKind(NamedTuple):
    """`frame_type` is the `:exception-type` inside a stream."""

    error_type: str
    status: int
    message: str

    @property
    def frame_type(self) -> str:
        return self.error_type[0].lower() + self.error_type[1:]


EXCEPTIONS: dict[str, ExceptionKind] = {
    "throttling": ExceptionKind("ThrottlingException", 429, THROTTLED_TOKENS),
    "throttling_requests": ExceptionKind("ThrottlingException", 429, THROTTLED_REQUESTS),
    "daily_tokens": ExceptionKind("ThrottlingException", 429, THROTTLED_DAY),
    "model_not_ready": ExceptionKind(
        "ModelNotReadyException", 429, "The model is not ready for inference. Wait and try your request again."
    ),
    "internal": ExceptionKind(
        "InternalServerException",
        500,
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
    "unavailable": ExceptionKind("ServiceUnavailableException", 503, "Bedrock is unable to process your request."),
    "model_timeout": ExceptionKind(
        "ModelTimeoutException", 408, "Model has timed out in processing the request. Try your request again."
    ),
    "model_error": ExceptionKind(
        "ModelErrorException",
        424,
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
    "model_stream_error": ExceptionKind(
        "ModelStreamErrorException",
        424,
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
    "validation": ExceptionKind(
        "ValidationException", 400, "The model returned the following errors: Malformed input request."
    ),
    "overflow": ExceptionKind("ValidationException", 400, "Input is too long for requested model."),
    "service_quota": ExceptionKind(
        "ServiceQuotaExceededException", 400, "Your request exceeds the service quota for your account."
    ),
    "access_denied": ExceptionKind(
        "AccessDeniedException", 403, "You don't have access to the model with the specified model ID."
    ),
    "not_found": ExceptionKind(
        "ResourceNotFoundException",
        404,
        "This model version has reached the end of its life. "
        "Please refer to the AWS documentation for more details.",
    ),
    "expired_token": ExceptionKind(
        "ExpiredTokenException", 403, "The security token included in the request is expired"
    ),
    "unrecognized_client": ExceptionKind(
        "UnrecognizedClientException", 403, "The security token included in the request is invalid."
    ),
    "invalid_signature": ExceptionKind(
        "InvalidSignatureException",
        403,
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
        "Access Key and signing method. Consult the service documentation for details.",
    ),
    "missing_token": ExceptionKind("MissingAuthenticationTokenException", 403, "Missing Authentication Token"),
    "unknown_operation": ExceptionKind("UnknownOperationException", 404, "Unknown operation"),
}


class Refusal(Exception):
    """A call is answered with an error. `kind` is a key of `EXCEPTIONS`; `retry_after` becomes a header."""

    def __init__(self, kind: str, message: str | None = None, *, retry_after: float | None = None) -> None:
        self.kind = EXCEPTIONS[kind]
        self.message = message or self.kind.message
        self.retry_after = retry_after
        super().__init__(self.message)

    def members(self) -> dict[str, Any]:
        """Body of the error besides its message."""
        if self.kind.error_type == "ModelStreamErrorException":
            return {"originalStatusCode": 500, "originalMessage": self.message}
        if self.kind.error_type == "ModelErrorException":
            return {"originalStatusCode": 500}
        return {}
