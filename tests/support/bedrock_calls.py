"""Short ways to model calls, profiles and managers for tests of the Bedrock adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.config.settings import BedrockSettings
from sidecar.errors import SidecarError
from sidecar.models.call import CallLimits, ModelCall, ModelDelta, ModelReply
from sidecar.models.content import Message, TextBlock, ToolUseBlock
from sidecar.models.profile import Candidate, Family, ModelProfile, Route, Traits

TRANSPORTS: tuple[Literal["aiohttp", "boto3"], ...] = ("aiohttp", "boto3")
CLAUDE = Traits(
    sampling="one",
    top_k=True,
    reasoning="budget",
    replays_reasoning=True,
    forced_tool="not_with_reasoning",
    schema="native",
    cache_points=("system", "messages", "tools"),
    long_cache=True,
)
NOVA = Traits(
    top_k=True,
    reasoning="inline",
    cache_points=("system", "messages"),
    hyphens_in_tool_names=False,
)


def profile(
    *,
    model_id: str = "us.example.model-v1:0",
    family: Family = "other",
    traits: Traits | None = None,
    **fields: Any,
) -> ModelProfile:
    route = Route(region="us-east-1", invoke_id=model_id)
    if traits is None:
        traits = {"claude": CLAUDE, "nova": NOVA, "other": Traits()}[family]
    fields.setdefault("max_output_tokens", 64_000)
    return ModelProfile(
        alias="model", model_id=model_id, family=family, name="Model", traits=traits, routes=(route,), **fields
    )


def call(*messages: Message | str, of: ModelProfile | None = None, **fields: Any) -> ModelCall:
    model = of or profile()
    told = tuple(
        message if isinstance(message, Message) else Message(role="user", content=message) for message in messages
    )
    return ModelCall(
        candidate=Candidate(profile=model, route=model.routes[0]),
        messages=told or (Message(role="user", content="hello"),),
        **fields,
    )


def limits(**seconds: float) -> CallLimits:
    return msgspec.structs.replace(CallLimits(connect_s=10, first_token_s=20, idle_s=20, total_s=30), **seconds)


@asynccontextmanager
async def manager(
    endpoint_url: str | None, transport: Literal["aiohttp", "boto3"]
) -> AsyncIterator[BedrockManager]:
    opened = BedrockManager(BedrockSettings(endpoint_url=endpoint_url, transport=transport, max_connections=32))
    await opened.start()
    try:
        yield opened
    finally:
        await opened.close()


async def collect(client: BedrockManager, asked: ModelCall) -> tuple[list[ModelDelta], ModelReply]:
    """All of a stream."""
    deltas: list[ModelDelta] = []
    async for item in client.stream(asked):
        if isinstance(item, ModelReply):
            return deltas, item
        deltas.append(item)
    raise AssertionError("the stream ended without a reply")


async def outcome(client: BedrockManager, asked: ModelCall, *, is_stream: bool) -> ModelReply | SidecarError:
    """How a call ends: by a reply, or by the one typed error. Anything else is raised."""
    try:
        if is_stream:
            return (await collect(client, asked))[1]
        return await client.converse(asked)
    except SidecarError as error:
        return error


def text_of(reply: ModelReply) -> str:
    return "".join(block.text for block in reply.content if isinstance(block, TextBlock))


def tool_calls_of(reply: ModelReply) -> list[tuple[str, str, dict[str, Any]]]:
    return [(block.id, block.name, block.input) for block in reply.content if isinstance(block, ToolUseBlock)]
