"""Calls of shapes that some family refuses, by name: symptoms that users of Bedrock report."""

from typing import Any

from sidecar.models.call import ToolSpec
from sidecar.models.content import (
    CachePointBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    ReasoningBlock,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.request import Params, Reasoning

PNG = ImageBlock(source=Source(data=b"\x89PNG"), format="png")
MD = DocumentBlock(source=Source(data=b"hello"), format="md", name="notes")
PDF = DocumentBlock(source=Source(data=b"%PDF-1.7"), format="pdf", name="paper")
POINT, HOUR = CachePointBlock(), CachePointBlock(ttl="1h")
STRING = {"type": "string"}


def user(*blocks: Any) -> Message:
    return Message(role="user", content=tuple(TextBlock(text=b) if isinstance(b, str) else b for b in blocks))


def said(*blocks: Any) -> Message:
    return Message(role="assistant", content=tuple(TextBlock(text=b) if isinstance(b, str) else b for b in blocks))


def tool(schema: dict[str, Any], name: str = "search") -> tuple[ToolSpec, ...]:
    return (ToolSpec(name=name, description="d", input_schema=schema),)


PLAIN = tool({"type": "object", "properties": {"q": STRING}})
USE, RESULT = ToolUseBlock(id="t1", name="search", input={}), ToolResultBlock(tool_use_id="t1", content="ok")
THOUGHT = ReasoningBlock(text="hm", signature="c2ln")
LOOKED = (user("a"), said("let me look", USE))
MORE = Message(role="user", content="more")

SHAPES: dict[str, dict[str, Any]] = {
    "point first": {"messages": (user(POINT, "hi"),)},
    "point first behind a system prompt": {"messages": (user(POINT, "hi"),), "system": "be brief"},
    "point first later on": {"messages": (user("hi"), said("ok"), user(POINT, "more"))},
    "point after a document": {"messages": (user("read", MD, POINT), said("ok"), MORE)},
    "point after a pdf": {"messages": (user("read", PDF, POINT), said("ok"), MORE)},
    "point after documents alone": {"messages": (user(MD, POINT), said("ok"), MORE)},
    "point beside a document and results": {
        "messages": (*LOOKED, user(RESULT, MD, POINT)),
        "tools": PLAIN,
    },
    "point after reasoning": {
        "messages": (user("hi"), said(THOUGHT, POINT, "x"), MORE),
        "reasoning": Reasoning(budget_tokens=2000),
        "params": Params(max_tokens=4000),
    },
    "point after reasoning that is dropped": {
        "messages": (user("hi"), said(ReasoningBlock(text="foreign"), POINT, "x"), MORE)
    },
    "points in a row": {"messages": (user("a", POINT, POINT, "b", POINT),)},
    "points of merged messages": {"messages": (user("a", POINT), user(POINT, "b"), user(POINT, "c"))},
    "five points": {"messages": (user("a", POINT, "b", POINT, "c", POINT, "d", POINT, "e", POINT),)},
    "five points and a system prompt": {
        "messages": (user(POINT, "a", POINT, "b", POINT, "c", POINT, "d", POINT),),
        "system": "x",
    },
    "short life before a long one": {"messages": (user("a", POINT, "b", HOUR),)},
    "long life": {"messages": (user("a", HOUR, "b"),)},
    "anyOf at the root": {
        "tools": tool(
            {
                "type": "object",
                "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
                "properties": {"a": STRING, "b": STRING},
            }
        )
    },
    "oneOf of references at the root": {
        "tools": tool(
            {
                "type": "object",
                "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
                "$defs": {
                    "A": {"type": "object", "properties": {"a": STRING}, "required": ["a"]},
                    "B": {"type": "object", "properties": {"a": {"type": "integer"}, "b": STRING}},
                },
            }
        )
    },
    "allOf at the root": {
        "tools": tool({"type": "object", "allOf": [{"properties": {"a": STRING}, "required": ["a"]}]})
    },
    "keys outside the pattern": {
        "tools": tool(
            {
                "type": "object",
                "properties": {
                    "Account Number": STRING,
                    "filter[id]": STRING,
                    "x" * 70: STRING,
                    "deep": {"type": "array", "items": {"type": "object", "properties": {"a b": STRING}}},
                },
                "required": ["Account Number"],
            }
        )
    },
    "properties null": {"tools": tool({"type": "object", "properties": None})},
    "definitions": {
        "tools": tool(
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "title": "X",
                "description": "y",
                "additionalProperties": False,
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/A"}, "definitions": STRING},
                "$defs": {"A": STRING},
            }
        )
    },
    "a definition that contains itself": {
        "tools": tool(
            {
                "type": "object",
                "properties": {"tree": {"$ref": "#/$defs/Tree"}},
                "$defs": {
                    "Tree": {
                        "type": "object",
                        "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
                    }
                },
            }
        )
    },
    "a root that is a reference": {
        "tools": tool({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"a": STRING}}}})
    },
    "no type at the root": {"tools": tool({"properties": {"a": STRING}})},
    "prefill with a budget": {
        "messages": (user("json please"), said("{")),
        "reasoning": Reasoning(budget_tokens=2000),
        "params": Params(max_tokens=4000),
    },
    "prefill with an effort": {
        "messages": (user("json please"), said("{")),
        "reasoning": Reasoning(effort="low"),
        "params": Params(max_tokens=4000),
    },
    "blank stop": {"params": Params(stop=("\n",), max_tokens=64)},
    "blank stop among others": {"params": Params(stop=("\n", "END"))},
    "many stops": {"params": Params(stop=("a", "b", "c", "d", "e"), max_tokens=64)},
    "one id in two turns": {
        "messages": (user("hi"), said(USE), user(RESULT), said(USE), user(RESULT), said("x", USE), user(RESULT)),
        "tools": PLAIN,
    },
    "text beside a result": {"messages": (*LOOKED, user(RESULT, "go on")), "tools": PLAIN},
    "text beside an error": {
        "messages": (
            *LOOKED,
            user(ToolResultBlock(tool_use_id="t1", content="no", is_error=True), "go on", POINT),
        ),
        "tools": PLAIN,
    },
    "text that merging puts beside a result": {"messages": (*LOOKED, user(RESULT), MORE), "tools": PLAIN},
    "image inside a result": {
        "messages": (
            *LOOKED,
            user(ToolResultBlock(tool_use_id="t1", content=(TextBlock(text="see"), PNG, PNG))),
        ),
        "tools": PLAIN,
    },
    "image alone inside a result": {
        "messages": (*LOOKED, user(ToolResultBlock(tool_use_id="t1", content=(PNG,)))),
        "tools": PLAIN,
    },
    "21 images": {"messages": (user("x", *[PNG] * 21),)},
    "21 images of two messages": {"messages": (user("x", *[PNG] * 15), user(*[PNG] * 6))},
    "an image that is another": {
        "messages": (user("x", ImageBlock(source=Source(data=b"\xff\xd8\xff\xe0"), format="png")),)
    },
    "an image that is none": {"messages": (user("x", ImageBlock(source=Source(data=b"hi"), format="gif")),)},
    "a document that is an image": {
        "messages": (user("x", DocumentBlock(source=Source(data=b"\x89PNG"), format="pdf")),)
    },
    "a reference that leads nowhere": {
        "tools": tool({"type": "object", "properties": {"a": {"$ref": "#/$defs/no"}}})
    },
    "a reference to elsewhere": {
        "tools": tool({"type": "object", "properties": {"a": {"$ref": "https://example.org/a"}}})
    },
    "a tool whose input is no object": {"tools": tool({"type": "string"})},
}
