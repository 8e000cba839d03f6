"""Examples of requests, written as a client would."""

import base64
from typing import Any

ORDER_SCHEMA = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}},
    "required": ["order_id"],
    "additionalProperties": False,
}

REQUESTS: dict[str, dict[str, Any]] = {
    "request": {"messages": [{"role": "user", "content": "What is JetStream?"}]},
    "request.full": {
        "messages": [{"role": "user", "content": "What is JetStream?"}],
        "system": "Answer in one sentence.",
        "model": ["claude-sonnet", "nova-pro"],
        "task": {"kind": "chat", "quality": "balanced", "needs": ["tools"]},
        "params": {"max_tokens": 512, "temperature": 0.2, "stop": ["END"]},
        "tools": ["search", "orders@^1.2"],
        "tool_choice": "auto",
        "stream": True,
        "timeout_s": 120,
        "first_token_timeout_s": 30,
        "idle_timeout_s": 30,
        "deadline": "2026-12-01T10:00:00.000Z",
        "budget": {"max_cost_usd": 0.05, "max_tool_calls": 20, "max_turns": 8},
        "reasoning": {"effort": "low"},
        "cache": "auto",
        "service_tier": "auto",
        "on_interrupt": "restart",
        "guardrail": {"id": "gr-1", "version": "1"},
        "filters": ["pii"],
        "metadata": {"ticket": "42"},
    },
    "request.structured": {
        "messages": [{"role": "user", "content": "Order 7 of Ada Lovelace: 3 lamps"}],
        "task": {"kind": "extract", "quality": "fast"},
        "output": {
            "schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "lamps": {"type": "integer"}},
                "required": ["name", "lamps"],
                "additionalProperties": False,
            }
        },
    },
    "request.blocks": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare the picture with the report."},
                    {
                        "type": "image",
                        "format": "png",
                        "source": {"bytes": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()},
                    },
                    {"type": "document", "format": "pdf", "name": "report", "source": {"object": "report-7.pdf"}},
                    {"type": "cache_point"},
                ],
            }
        ],
    },
    "request.tools": {
        "messages": [
            {"role": "user", "content": "Where is order 7?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "reasoning", "text": "The order must be looked up.", "signature": "c2ln"},
                    {"type": "tool_use", "id": "tooluse_1", "name": "orders", "input": {"order_id": "7"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "tooluse_1",
                        "content": [{"type": "json", "value": {"status": "shipped"}}],
                    }
                ],
            },
        ],
        "tools": [{"name": "orders", "description": "Looks up an order.", "input_schema": ORDER_SCHEMA}],
        "tool_choice": {"name": "orders"},
    },
    "request.prompt": {"prompt": {"name": "greeting", "version": "3", "variables": {"name": "Ada"}}},
}
