"""Going on after the stop reason `tool_use`: the client's own tools run here, and the request that follows."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack, cast

import msgspec

from sidecar.client.requests import Request, RequestFields, build_request
from sidecar.client.results import JobResult
from sidecar.client.tools.codecs import plain
from sidecar.client.tools.context import ToolContext
from sidecar.client.tools.definition import Tool
from sidecar.client.tools.errors import ToolError
from sidecar.client.tools.replies import Reply, failure, invalid_input
from sidecar.client.tools.running import begin
from sidecar.errors import InvalidRequest
from sidecar.models.api import ErrorReply
from sidecar.models.codec import decode_request, encode
from sidecar.models.content import JsonBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.request import JobRequest

_NO_LIMIT_BYTES = 1 << 40
_UNSENDABLE = ("other",)


async def run_calls(calls: Iterable[ToolUseBlock], tools: Iterable[Tool[..., Any]]) -> tuple[ToolResultBlock, ...]:
    """Run calls of inline tools here, at once, with the checks that a provider makes; results in the calls' order.

    What goes wrong (an unknown tool, invalid input, an exception) becomes an error result for the model.
    """
    known = {one.name: one for one in tools}
    return tuple(await asyncio.gather(*(_run_call(call, known.get(call.name)) for call in calls)))


def continue_with(
    request: Request,
    result: JobResult,
    outputs: Mapping[str, Any] | Sequence[Any],
    **fields: Unpack[RequestFields],
) -> JobRequest:
    """The request that goes on after `result`, which ended with `tool_use`: hand it in as a new job.

    The new conversation is that of `request`, which is what the ended job was asked; then what the job added (the
    turn with the calls; before it, turns with tools that the sidecar ran); then one user message with the results
    of the last turn, in the order of its calls.

    `outputs` are for `result.tool_calls`, by their ids or in their order: a `ToolResultBlock` (of `run_calls`) as
    it is, a string as text, an exception as an error (as a provider tells it), any other value as JSON. `fields`
    are laid over the request. A `tool_choice` that forced a call becomes `auto`, or else the model could never
    come to an end.

    Raises InvalidRequest where outputs are missing or too many, or `request` has a stored prompt in place of
    messages.
    """
    asked = build_request(request, {})
    if asked.messages is None:
        raise InvalidRequest(
            "only a conversation can be gone on with: give the messages, not a prompt", path="prompt"
        )
    calls = result.tool_calls
    blocks = [_result_block(call, output) for call, output in zip(calls, _in_order(calls, outputs), strict=True)]
    following = cast(dict[str, Any], msgspec.to_builtins(asked))
    following["messages"] = [*following["messages"], *_added(result, msgspec.to_builtins(blocks))]
    if asked.tool_choice not in ("auto", "none"):
        following.pop("tool_choice", None)
    return decode_request(encode({**following, **msgspec.to_builtins(dict(fields))}))


def _added(result: JobResult, own: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that go on from the request's: what the job said and did, and the client's `own` results."""
    content = result.output.content
    added = list(result.output.messages)
    if not added:
        answer = [block for block in content if block.get("type") not in _UNSENDABLE]
        added = [{"role": "assistant", "content": answer}]
    results = list(own)
    if added[-1]["role"] == "user":
        places = {block.get("id"): place for place, block in enumerate(content)}
        results = [*added.pop()["content"], *results]
        results.sort(key=lambda block: places.get(block["tool_use_id"], -1))
    return [*added, {"role": "user", "content": results}]


def _in_order(calls: Sequence[ToolUseBlock], outputs: Mapping[str, Any] | Sequence[Any]) -> Sequence[Any]:
    if not calls:
        raise InvalidRequest("the result holds no tool calls: there is nothing to answer", path="outputs")
    if isinstance(outputs, Mapping):
        ids = [call.id for call in calls]
        missing, foreign = [i for i in ids if i not in outputs], [i for i in outputs if i not in ids]
        if missing:
            raise InvalidRequest(f"no output for the calls {', '.join(missing)}: each needs one", path="outputs")
        if foreign:
            raise InvalidRequest(f"outputs for {', '.join(foreign)}, which were not called", path="outputs")
        return [outputs[i] for i in ids]
    if len(outputs) != len(calls):
        raise InvalidRequest(f"{len(outputs)} outputs for {len(calls)} calls: give one each", path="outputs")
    return outputs


def _result_block(call: ToolUseBlock, output: Any) -> ToolResultBlock:
    if isinstance(output, ToolResultBlock):
        if output.tool_use_id != call.id:
            raise InvalidRequest(
                f"a result of {output.tool_use_id} where that of {call.id} belongs", path="outputs"
            )
        return output
    if isinstance(output, Exception):
        return _from_reply(call, failure(output))
    if isinstance(output, str):
        return ToolResultBlock(tool_use_id=call.id, content=output)
    try:
        return _json_block(call, plain(output))
    except TypeError as e:
        raise InvalidRequest(f"the output of {call.id} cannot be written as JSON: {e}", path="outputs") from e


def _json_block(call: ToolUseBlock, value: Any) -> ToolResultBlock:
    """Bedrock takes an object as JSON; anything else goes as JSON text."""
    if isinstance(value, str):
        return ToolResultBlock(tool_use_id=call.id, content=value)
    if not isinstance(value, dict):
        return ToolResultBlock(tool_use_id=call.id, content=encode(value).decode())
    return ToolResultBlock(tool_use_id=call.id, content=(JsonBlock(value=value),))


async def _run_call(call: ToolUseBlock, tool: Tool[..., Any] | None) -> ToolResultBlock:
    if tool is None:
        return _from_reply(call, failure(ToolError(f"there is no tool called {call.name}", code=404)))
    try:
        arguments = tool.signature.input.decode(encode(call.input))
    except InvalidRequest as e:
        return _from_reply(call, invalid_input(e))
    context = ToolContext(tool_use_id=call.id)
    try:
        reply = await begin(tool, arguments, context, limit_bytes=_NO_LIMIT_BYTES, on_end=lambda: None)
    except asyncio.CancelledError:
        context.token.set()
        raise
    return _from_reply(call, reply)


def _from_reply(call: ToolUseBlock, reply: Reply) -> ToolResultBlock:
    if reply.is_error:
        message = msgspec.json.decode(reply.payload, type=ErrorReply).error.message
        return ToolResultBlock(tool_use_id=call.id, content=message, is_error=True)
    return _json_block(call, msgspec.json.decode(reply.payload))
