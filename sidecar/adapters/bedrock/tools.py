"""Tools in Converse form: specifications, choice, and the tool that stands in for an output schema."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sidecar.adapters.bedrock.names import ToolNames
from sidecar.models.call import ModelCall
from sidecar.models.content import ToolUseBlock
from sidecar.models.request import ToolChoice

OUTPUT_TOOL = "structured_output"
_OUTPUT_DESCRIPTION = "Gives the answer. Call it once, with the whole answer as its arguments."
_GONE_DESCRIPTION = "No longer available; listed because the conversation holds calls of it."


@dataclass(frozen=True, slots=True)
class ToolPlan:
    config: dict[str, Any] | None
    output_tool: str | None = None
    takes_tools: bool = True


def names_in(call: ModelCall) -> Iterable[str]:
    """Tools of the call and of its history."""
    yield from (tool.name for tool in call.tools)
    yield from _history(call)


def plan_tools(
    call: ModelCall, names: ToolNames, *, output: dict[str, Any] | None, can_force: bool, warnings: list[str]
) -> ToolPlan:
    """What `toolConfig` holds. Tools are sorted by name, so that any order of the same tools caches alike.

    There is no choice `none` in Bedrock: without tool blocks in the history the tools are left out; with them
    they must be sent, and a call that the model makes all the same is not taken. `output` is the schema of an
    answer that is given by calling a tool.
    """
    history = sorted(set(_history(call)))
    takes_tools = call.tool_choice != "none"
    offered = sorted(call.tools, key=lambda tool: tool.name) if takes_tools or history else []
    specs = [_spec(names.to_wire(tool.name), tool.description, tool.input_schema) for tool in offered]
    known = {tool.name for tool in offered}
    gone = [name for name in history if name not in known]
    if gone:
        warnings.append(f"the history holds calls of tools that are not offered: {', '.join(gone)}")
        specs.extend(_spec(names.to_wire(name), _GONE_DESCRIPTION, {"type": "object"}) for name in gone)
    output_tool = None
    if output is not None:
        output_tool = names.free(OUTPUT_TOOL)
        specs.append(_spec(output_tool, _OUTPUT_DESCRIPTION, output))
    if not specs:
        return ToolPlan(None)
    config: dict[str, Any] = {"tools": specs}
    choice = _choice(call, names, output_tool, offers_tools=takes_tools and bool(call.tools))
    if choice is not None and not can_force:
        warnings.append("this model cannot be made to call a tool here; tool_choice was sent as auto")
        choice = None
    if choice is not None:
        config["toolChoice"] = choice
    return ToolPlan(config, output_tool, takes_tools)


def _history(call: ModelCall) -> Iterable[str]:
    for message in call.messages:
        if not isinstance(message.content, str):
            yield from (block.name for block in message.content if isinstance(block, ToolUseBlock))


def _spec(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": name}
    if description.strip():
        spec["description"] = description
    spec["inputSchema"] = {"json": schema or {"type": "object"}}
    return {"toolSpec": spec}


def _choice(
    call: ModelCall, names: ToolNames, output_tool: str | None, *, offers_tools: bool
) -> dict[str, Any] | None:
    """None is auto, which is what Bedrock does by itself. A tool that the call names goes before the answer."""
    if isinstance(call.tool_choice, ToolChoice):
        return {"tool": {"name": names.to_wire(call.tool_choice.name)}}
    if output_tool is not None:
        return {"any": {}} if offers_tools else {"tool": {"name": output_tool}}
    return {"any": {}} if call.tool_choice == "any" else None
