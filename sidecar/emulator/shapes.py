"""Shapes that Bedrock refuses: cache points, tool schemas, neighbours of tool results, media. By users' reports.

Written from the service's side alone, so that what the sidecar sends is held against it. Where no report of the
service's own words was found, the message says the rule.
"""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.traits import ModelTraits

MAX_CACHE_POINTS = 4
MAX_IMAGES = 20
MAX_STOPS = {"nova": 4, "mistral": 10}
PROPERTY_KEY = "^[a-zA-Z0-9_.-]{1,64}$"

_FROM_MODEL = "The model returned the following errors: "
_HEADS = {"png": (b"\x89PNG",), "jpeg": (b"\xff\xd8\xff",), "gif": (b"GIF8",), "webp": (b"RIFF",)}
# Documented are type, properties and required; recorded exchanges show the other two taken.
_NOVA_ROOT = frozenset({"type", "properties", "required", "additionalProperties", "title"})
# Keywords whose object has names of schemas, not keywords.
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LONG_CACHE_SINCE = (4, 5)

Body = Mapping[str, Any]


def check_shapes(body: Body, traits: ModelTraits) -> None:
    """Raises Refusal for the first shape that Converse or the model's family does not take."""
    messages: Sequence[Body] = body.get("messages") or ()
    tools: Sequence[Body] = (body.get("toolConfig") or {}).get("tools") or ()
    stops = (body.get("inferenceConfig") or {}).get("stopSequences")
    if stops is not None:
        _check_stops(stops, traits)
    for place, tool in enumerate(tools):
        spec = tool.get("toolSpec")
        if spec is not None:
            _check_schema((spec.get("inputSchema") or {}).get("json"), place, traits)
    if all(len(message["content"]) == 1 and "text" in message["content"][0] for message in messages):
        return
    _check_cache_points(body, messages, traits)
    for place, message in enumerate(messages):
        _check_images(message["content"], place)
        _check_results(message["content"], place, traits)
    _check_thinking_prefill(body, messages, traits)
    if traits.is_claude:
        _check_ids(messages)


def _refuse(message: str) -> NoReturn:
    raise Refusal("validation", message)


def _check_stops(stops: Sequence[str], traits: ModelTraits) -> None:
    if traits.is_claude and any(not stop.strip() for stop in stops):
        _refuse(_FROM_MODEL + "stop_sequences: each stop sequence must contain non-whitespace")
    most = MAX_STOPS.get(traits.family)
    if most is not None and len(stops) > most:
        _refuse(f"{_FROM_MODEL}#/inferenceConfig/stopSequences: expected maximum item count: {most}")


def _check_schema(schema: Any, place: int, traits: ModelTraits) -> None:
    where = f"tools.{place}.custom.input_schema"
    if not isinstance(schema, dict) or schema.get("type") != "object":
        _refuse(f"The value at toolConfig.tools.{place}.toolSpec.inputSchema.json.type must be one of: object.")
    if any(value is None for value in schema.values()):
        _refuse(f"{_FROM_MODEL}{where}: JSON schema is invalid. It must match JSON Schema draft 2020-12")
    if traits.is_claude:
        _check_claude_schema(schema, where)
    elif traits.is_nova:
        _check_nova_schema(schema, place)


def _check_claude_schema(schema: Body, where: str) -> None:
    if "2020-12" not in str(schema.get("$schema", "2020-12")):
        _refuse(f"{_FROM_MODEL}{where}: JSON schema is invalid. It must match JSON Schema draft 2020-12")
    if {"anyOf", "oneOf", "allOf"} & schema.keys():
        _refuse(f"{_FROM_MODEL}{where}: input_schema does not support oneOf, allOf, or anyOf at the top level")
    if not all(re.fullmatch(PROPERTY_KEY.strip("^$"), key) for key in _property_names(schema)):
        _refuse(f"{_FROM_MODEL}{where}.properties: Property keys should match pattern '{PROPERTY_KEY}'")


def _check_nova_schema(schema: Body, place: int) -> None:
    extra = sorted(schema.keys() - _NOVA_ROOT)
    if extra:
        _refuse(
            f"{_FROM_MODEL}Malformed input request: #/toolConfig/tools/{place}/toolSpec/inputSchema/json: "
            f"extraneous key [{extra[0]}] is not permitted, please reformat your input and try again."
        )
    if _refers(schema):
        _refuse(f"{_FROM_MODEL}tools.{place}: references in a tool's schema are not supported")


def _property_names(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _property_names(item)
    elif isinstance(schema, dict):
        for key, item in schema.items():
            if key == "properties" and isinstance(item, dict):
                yield from item
            is_map = key in _MAPS and isinstance(item, dict)
            yield from _property_names(list(item.values()) if is_map else item)


def _refers(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(_refers(item) for item in schema)
    if not isinstance(schema, dict):
        return False
    inner = [list(v.values()) if k in _MAPS and isinstance(v, dict) else v for k, v in schema.items()]
    return isinstance(schema.get("$ref"), str) or any(map(_refers, inner))


def _check_cache_points(body: Body, messages: Sequence[Body], traits: ModelTraits) -> None:
    points: list[Body] = []
    for section in ((body.get("toolConfig") or {}).get("tools"), body.get("system")):
        _check_section(section or (), "the request", points, traits)
    for place, message in enumerate(messages):
        _check_section(message["content"], f"messages.{place}.content", points, traits)
    if len(points) > MAX_CACHE_POINTS:
        _refuse(f"{_FROM_MODEL}A maximum of {MAX_CACHE_POINTS} blocks with cache_control may be provided.")
    lives = [point.get("ttl", "5m") for point in points]
    if "1h" in lives and not (traits.is_claude and traits.version >= _LONG_CACHE_SINCE):
        _refuse("This model doesn't support the ttl field of a cachePoint. Remove ttl and try again.")
    if "1h" in lives[lives.index("5m") :] if "5m" in lives else False:
        _refuse(f"{_FROM_MODEL}a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.")


def _check_section(section: Sequence[Body], where: str, points: list[Body], traits: ModelTraits) -> None:
    for place, block in enumerate(section):
        if "cachePoint" not in block:
            continue
        before = section[place - 1] if place else {}
        if not place or "cachePoint" in before:
            _refuse(f"cachePoint cannot be inserted at {where}.{place}: there is nothing before it to be cached.")
        if "reasoningContent" in before:
            _refuse(f"cachePoint cannot be inserted after reasoningContent at {where}.{place}.")
        if "document" in before and not (traits.is_claude and before["document"].get("format") == "pdf"):
            _refuse(f"cachePoint cannot be inserted right after a document at {where}.{place}.")
        points.append(block["cachePoint"])


def _check_images(content: Sequence[Body], place: int) -> None:
    images = [block["image"] for block in content if "image" in block]
    for block in content:
        for part in (block.get("toolResult") or {}).get("content") or ():
            if "image" in part:
                images.append(part["image"])
    if len(images) > MAX_IMAGES:
        _refuse(f"The Message object at messages.{place} has more than {MAX_IMAGES} images.")
    for image in images:
        data = (image.get("source") or {}).get("bytes")
        if isinstance(data, str) and not _decoded(data).startswith(_HEADS.get(str(image.get("format")), (b"",))):
            _refuse(f"{_FROM_MODEL}messages.{place}: the image was specified using another media type than it is.")


def _decoded(data: str) -> bytes:
    try:
        return b64decode(data, validate=True)
    except ValueError:
        _refuse("The image bytes are not valid base64.")


def _check_results(content: Sequence[Body], place: int, traits: ModelTraits) -> None:
    results = [block["toolResult"] for block in content if "toolResult" in block]
    if not results:
        return
    others = [block for block in content if "toolResult" not in block and "cachePoint" not in block]
    if traits.family in ("llama", "mistral") and others:
        _refuse(f"messages.{place}: this model doesn't support other content beside toolResult in one message.")
    if traits.family == "openai" and any("image" in part for r in results for part in r.get("content") or ()):
        _refuse("This model doesn't support the image field in a toolResult. Remove image and try again.")


def _check_thinking_prefill(body: Body, messages: Sequence[Body], traits: ModelTraits) -> None:
    fields = body.get("additionalModelRequestFields") or {}
    if traits.is_claude and "thinking" in fields and messages[-1].get("role") == "assistant":
        _refuse(f"{_FROM_MODEL}prefilling the assistant response is not supported when thinking is enabled.")


def _check_ids(messages: Sequence[Body]) -> None:
    seen: set[str] = set()
    for place, message in enumerate(messages):
        for block in message["content"]:
            use = block.get("toolUse")
            if use is None or use.get("type") not in (None, "tool_use"):
                continue
            if use["toolUseId"] in seen:
                _refuse(f"{_FROM_MODEL}messages.{place}: `tool_use` ids must be unique")
            seen.add(use["toolUseId"])
