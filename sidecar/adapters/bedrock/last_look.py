"""The last look at a body before it leaves: what Converse and each family take, whatever the way to it was.

What can be mended without changing the meaning is mended here, and a warning names it. The rest raises
InvalidRequest with its path, marked as this model's alone where another one may take it. The emulator holds the
same rules from its own side (`emulator/shapes.py`), written apart.
"""

from collections.abc import Iterable
from typing import Any

from sidecar.adapters.bedrock.cache_points import tidy_cache_points
from sidecar.adapters.bedrock.messages import SEPARATOR, only_here
from sidecar.adapters.bedrock.names import MAX_NAME_CHARS
from sidecar.adapters.bedrock.tool_forms import loosened, renamed, tool_form
from sidecar.errors import InvalidRequest
from sidecar.models.call import ModelCall
from sidecar.models.content import ImageBlock, Message, ToolResultBlock
from sidecar.models.profile import ModelProfile, Traits

MAX_IMAGES = 20
Body = dict[str, Any]
Keys = dict[str, dict[str, str]]


def last_look(body: Body, call: ModelCall, tool_names: dict[str, str], warnings: list[str]) -> Keys:
    """Mend `body`. Returns, by the tool's name on the wire, which names of properties have to be turned back.

    `tool_names`: the call's names of tools by those on the wire, where the two differ.
    """
    profile = call.candidate.profile
    inference = body.get("inferenceConfig")
    if inference is not None and "stopSequences" in inference:
        _stops(body, inference, profile, warnings)
    keys: Keys = {}
    if "toolConfig" in body:
        keys = _tool_schemas(body, profile, call, tool_names, warnings)
        _distinct_ids(body["messages"], warnings)
        if not (profile.traits.text_beside_results and profile.traits.images_in_results):
            body["messages"] = _results(body["messages"], profile.traits, warnings)
    _image_counts(body["messages"], call)
    tidy_cache_points(body, profile, warnings)
    return keys


def _stops(body: Body, inference: dict[str, Any], profile: ModelProfile, warnings: list[str]) -> None:
    stops = inference["stopSequences"]
    if profile.family == "claude" and not all(stop.strip() for stop in stops):
        stops = [stop for stop in stops if stop.strip()]
        warnings.append("this model takes no stop sequence of white space alone; such were not sent")
    most = profile.traits.max_stops
    if most is not None and len(stops) > most:
        raise only_here(f"this model takes at most {most} stop sequences: {len(stops)} are given", "params.stop")
    if stops:
        inference["stopSequences"] = stops
        return
    del inference["stopSequences"]
    if not inference:
        del body["inferenceConfig"]


def _tool_schemas(
    body: Body, profile: ModelProfile, call: ModelCall, tool_names: dict[str, str], warnings: list[str]
) -> Keys:
    keys: Keys = {}
    for tool in body["toolConfig"]["tools"]:
        spec = tool.get("toolSpec")
        if spec is None:
            continue
        form = tool_form(spec["inputSchema"]["json"], profile.family)
        name = tool_names.get(spec["name"], spec["name"])
        if form.problem is not None and _path_of(name, call) == "output.schema":
            # The answer is checked against the client's schema anyhow, where nobody need follow such a reference.
            form = tool_form(loosened(spec["inputSchema"]["json"]), profile.family)
            warnings.append("references of the output schema that lead nowhere were not sent")
        if form.problem is not None:
            raise InvalidRequest(f"the input schema of {name!r} {form.problem}", path=_path_of(name, call))
        spec["inputSchema"] = {"json": form.schema}
        warnings.extend(f"the input schema of {name!r}: {note}" for note in form.notes)
        if form.keys:
            keys[spec["name"]] = dict(form.keys)
    if keys:
        there = {name: {own: wire for wire, own in back.items()} for name, back in keys.items()}
        for block in _blocks(body["messages"], "toolUse"):
            if block["name"] in there:
                block["input"] = renamed(block["input"], there[block["name"]])
    return keys


def _path_of(name: str, call: ModelCall) -> str:
    place = next((place for place, tool in enumerate(call.tools) if tool.name == name), None)
    if place is None:
        return "output.schema" if call.output_schema is not None else "tools"
    return f"tools[{place}].input_schema"


def _blocks(messages: Iterable[Body], kind: str) -> Iterable[Any]:
    for message in messages:
        for block in message["content"]:
            if kind in block:
                yield block[kind]


def _distinct_ids(messages: list[Body], warnings: list[str]) -> None:
    """One id for each tool call of the conversation: some models number the calls of every turn from 0."""
    ids = [use["toolUseId"] for use in _blocks(messages, "toolUse")]
    if len(ids) == len(set(ids)):
        return
    taken, seen = set(ids), set[str]()
    now: dict[str, str] = {}
    for message in messages:
        if message["role"] == "assistant":
            now = {}
        for block in message["content"]:
            use = block.get("toolUse") or block.get("toolResult")
            if use is None:
                continue
            own = use["toolUseId"]
            if "toolUse" in block:
                now[own] = _free(own, taken) if own in seen else own
                seen.add(own)
            use["toolUseId"] = now.get(own, own)
    warnings.append("tool calls of several turns had the same id; the later ones were sent under other ids")


def _free(name: str, taken: set[str]) -> str:
    number = 2
    while (free := f"{name[: MAX_NAME_CHARS - 6]}_{number}") in taken:
        number += 1
    taken.add(free)
    return free


def _results(messages: list[Body], traits: Traits, warnings: list[str]) -> list[Body]:
    """Tool results with nothing in them and beside them that the model does not take."""
    arranged: list[Body] = []
    for message in messages:
        content = message["content"]
        if not any("toolResult" in block for block in content):
            arranged.append(message)
            continue
        if not traits.images_in_results:
            content = _images_beside(content, warnings)
        rest = [block for block in content if "toolResult" not in block]
        if traits.text_beside_results:
            arranged.append({**message, "content": content})
            continue
        results = [block for block in content if "toolResult" in block]
        arranged.append({**message, "content": results})
        if any("cachePoint" not in block for block in rest):
            _note(warnings, "what stood beside tool results was sent in a turn of its own")
            arranged.append({"role": "assistant", "content": [{"text": SEPARATOR}]})
            arranged.append({**message, "content": rest})
    return arranged


def _images_beside(content: list[Body], warnings: list[str]) -> list[Body]:
    made: list[Body] = []
    hoisted: list[Body] = []
    for block in content:
        parts = block["toolResult"]["content"] if "toolResult" in block else ()
        images = [part for part in parts if "image" in part]
        if images:
            kept = [part for part in parts if "image" not in part]
            hoisted += images
            said = "The image is attached below." if len(images) == 1 else "The images are attached below."
            block = {"toolResult": {**block["toolResult"], "content": [*kept, {"text": said}]}}
        made.append(block)
    if not hoisted:
        return content
    _note(warnings, "images inside tool results were sent beside them")
    last = max(place for place, block in enumerate(made) if "toolResult" in block) + 1
    return [*made[:last], *hoisted, *made[last:]]


def _image_counts(messages: list[Body], call: ModelCall) -> None:
    for message in messages:
        if len(message["content"]) == 1 and "text" in message["content"][0]:
            continue
        if _images_in(message["content"]) > MAX_IMAGES:
            raise InvalidRequest(
                f"a message takes at most {MAX_IMAGES} images, those of tool results included: send fewer",
                path=_crowded(call.messages),
            )


def _images_in(content: Iterable[Body]) -> int:
    return sum(
        1 if "image" in block else sum("image" in part for part in block["toolResult"]["content"])
        for block in content
        if "image" in block or "toolResult" in block
    )


def _crowded(messages: Iterable[Message]) -> str:
    """The path of the first image too many; messages of one role in a row are one."""
    count, role = 0, ""
    for place, message in enumerate(messages):
        count, role = (count if message.role == role else 0), message.role
        for at, block in enumerate(message.content if not isinstance(message.content, str) else ()):
            if isinstance(block, ImageBlock):
                count += 1
            elif isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
                count += sum(isinstance(part, ImageBlock) for part in block.content)
            if count > MAX_IMAGES:
                return f"messages[{place}].content[{at}]"
    return "messages"


def _note(warnings: list[str], text: str) -> None:
    if text not in warnings:
        warnings.append(text)
