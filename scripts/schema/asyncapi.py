"""The AsyncAPI 3 document of the protocol, from the sidecar's point of view."""

from typing import Any

from scripts.schema.catalog import MESSAGES
from scripts.schema.subjects import CHANNELS, PARAMETERS, Channel
from sidecar.models.base import JOB_CLASSES
from sidecar.models.event import DATA_OF

# The schemas are 2020-12; what they use means the same in draft-07, and that is the version parsers must know.
_SCHEMA_FORMAT = "application/schema+json;version=draft-07"
_JSON = "application/json"
_TRACE = {
    "traceparent": {"type": "string", "description": "W3C trace context; carried through."},
    "tracestate": {"type": "string"},
}
_HEADERS: dict[str, dict[str, Any]] = {
    "request": {
        "Llm-Job-Id": {
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]{1,64}$",
            "description": "The job's id; without it `s<stream sequence>`.",
        },
        "Nats-Msg-Id": {"type": "string", "description": "`<tenant>:<job>`, against duplicates."},
        **_TRACE,
    },
    "error": {
        "Nats-Service-Error-Code": {"type": "string", "description": "Number of the code, after HTTP."},
        "Nats-Service-Error": {"type": "string", "description": "The error's message."},
    },
    "end": {"Llm-End": {"const": "true"}},
    "tool_input": {
        "Llm-Job-Id": {"type": "string"},
        "Llm-Tenant": {"type": "string"},
        "Llm-Tool-Use-Id": {"type": "string"},
        "Idempotency-Key": {"type": "string", "description": "The same when a call is repeated."},
        "Llm-Deadline": {"type": "string", "format": "date-time", "description": "By the NATS server's clock."},
        "Llm-Time-Left": {
            "type": "string",
            "description": "Seconds from the call's sending to its deadline.",
        },
        **_TRACE,
    },
}


def document(version: str) -> dict[str, Any]:
    """The whole document as plain values. `version` is the product's."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:nats-llm-sidecar:v1",
        "info": {
            "title": "LLM sidecar for NATS",
            "version": version,
            "description": "Amazon Bedrock behind a NATS bus: durable, fairly shared LLM jobs. "
            "`llm` is the default prefix of all subjects. See schemas/README.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _JSON,
        "servers": {"nats": {"host": "localhost:4222", "protocol": "nats"}},
        "channels": {channel.name: _channel(channel) for channel in CHANNELS} | {"replies": _replies()},
        "operations": {channel.name: _operation(channel) for channel in CHANNELS},
        "components": {"messages": _messages()},
    }


def _channel(channel: Channel) -> dict[str, Any]:
    names = [part[1:-1] for part in channel.subject.split(".") if part.startswith("{")]
    described: dict[str, Any] = {
        "address": f"llm.v1.{channel.subject}",
        "summary": channel.summary,
        "messages": _message_refs(channel.messages),
    }
    if names:
        described["parameters"] = {name: _parameter(name) for name in names}
    return described


def _parameter(name: str) -> dict[str, Any]:
    described: dict[str, Any] = {"description": PARAMETERS[name]}
    if name == "class":
        described["enum"] = list(JOB_CLASSES)
    return described


def _replies() -> dict[str, Any]:
    """Answers go to the reply subject of the request, which only its sender knows."""
    names = dict.fromkeys(name for channel in CHANNELS for name in channel.reply)
    return {
        "address": None,
        "summary": "The reply subject of a request.",
        "messages": _message_refs((*names, "error")),
    }


def _message_refs(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operation(channel: Channel) -> dict[str, Any]:
    place = f"#/channels/{channel.name}"
    described: dict[str, Any] = {
        "action": channel.direction,
        "channel": {"$ref": place},
        "summary": channel.summary,
        "messages": [{"$ref": f"{place}/messages/{name}"} for name in channel.messages],
    }
    if channel.queue is not None:
        described["bindings"] = {"nats": {"queue": channel.queue, "bindingVersion": "0.1.0"}}
    if channel.reply:
        described["reply"] = {
            "channel": {"$ref": "#/channels/replies"},
            "messages": [{"$ref": f"#/channels/replies/messages/{name}"} for name in (*channel.reply, "error")],
        }
    return described


def _messages() -> dict[str, Any]:
    described = {m.name: _message(m.name, m.title, m.summary, f"./json/{m.name}.v1.json") for m in MESSAGES}
    for event_type, kind in DATA_OF.items():
        name = f"{event_type}_event"
        described[name] = _message(name, f"Event {event_type}", f"The envelope with data of type `{event_type}`.")
        data = {"$ref": f"./json/event.v1.json#/$defs/{kind.__name__}"}
        described[name]["payload"] = {
            "allOf": [
                {"$ref": "./json/event.v1.json"},
                {"type": "object", "properties": {"type": {"const": event_type}, "data": data}},
            ]
        }
    for name, title, summary in (
        ("tool_input", "Tool input", "The bare input, valid by the tool's input schema."),
        ("tool_output", "Tool output", "The bare output, valid by the tool's output schema."),
    ):
        described[name] = _message(name, title, summary)
    described["plain_text"] = _message("plain_text", "Plain text", "UTF-8 text as one user message.")
    described["plain_text"] |= {"contentType": "text/plain", "payload": {"type": "string", "minLength": 1}}
    described["end"] = _message("end", "End of a replay", "Empty, with header `Llm-End: true`.")
    return described


def _message(name: str, title: str, summary: str, schema: str | None = None) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "title": title, "summary": summary, "contentType": _JSON}
    if name in _HEADERS:
        described["headers"] = {"type": "object", "properties": _HEADERS[name]}
    if schema is not None:
        described["payload"] = {"schemaFormat": _SCHEMA_FORMAT, "schema": {"$ref": schema}}
    return described
