"""Names of spans, attributes and instruments, in one place: the conventions for generative AI are still in flux.

Those of OpenTelemetry's semantic conventions that released instrumentations use for `gen_ai.*`, and of messaging
for the way of a job over the bus. What has no name there begins with `sidecar.`.
"""

PROVIDER = "aws.bedrock"
SYSTEM = "nats"

OPERATION = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_NAME = "gen_ai.tool.name"
ERROR_TYPE = "error.type"
REGION = "cloud.region"

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION = "messaging.operation.name"
MESSAGING_KIND = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"

TENANT = "sidecar.tenant"
JOB = "sidecar.job"
JOB_CLASS = "sidecar.class"
OUTCOME = "sidecar.outcome"
ATTEMPTS = "sidecar.attempts"
COST_USD = "sidecar.cost_usd"
QUEUED_MS = "sidecar.queued_ms"

CHAT = "chat"
EXECUTE_TOOL = "execute_tool"
PROCESS = "process"

DURATION = "gen_ai.client.operation.duration"
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - the name of an instrument
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
# The boundaries that the conventions advise.
DURATION_BOUNDS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BOUNDS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
