"""Every family's answers through the whole way of a job, streamed and not: one form, one text, one value."""

import json
from typing import Any

import pytest

from sidecar.emulator import Emulator
from sidecar.models.result import Result
from tests.support.way import texts, way

MODELS = [
    "claude-sonnet-4-5",
    "claude-sonnet-5",
    "claude-3-7-sonnet",
    "nova-lite",
    "nova-2-lite",
    "llama3-3-70b-instruct",
]
TOOLS = [{"name": "look-up", "input_schema": {"type": "object"}}]
PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "prose": ("[[tokens=30]] go on", {}),
    "exact": ('[[text="  two\\n\\n lines \\t"]] go on', {}),
    "inline thinking": ('[[text="<thinking> so it is </thinking>\\n\\nYes."]] go on', {}),
    "citations": ("[[citations tokens=20]] go on", {}),
    "unknown block": ("[[fault=unknown_block tokens=9]] go on", {}),
    "tool": ('[[tool=look-up id=t1 input={"q":"x"}]] go on', {"tools": TOOLS}),
    "filtered": ("[[stop=content_filtered tokens=9]] go on", {}),
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["city"],
    },
    "array": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "bounds": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 7}}, "required": ["n"]},
    "loop": {"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"type": "number"}}, "required": ["n"]},
}


def form_of(result: Result) -> tuple[Any, ...]:
    return (result.state, result.output, result.stop_reason, result.text_sha256, result.error)


@pytest.fixture
async def on() -> Any:
    async with Emulator() as emulator, way(emulator.url) as opened:
        yield opened


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_has_one_form(on: Any, model: str) -> None:
    for name, (prompt, fields) in PROMPTS.items():
        whole = await on.ask(prompt, model=model, **fields)
        job = await on.submit(prompt, model=model, stream=True, **fields)
        streamed = await on.result(job)
        if name == "tool" and whole.error is not None:
            assert whole.error.code == streamed.error.code == "unknown_model", model
            continue
        if name != "unknown block":
            assert form_of(whole) == form_of(streamed), name
        else:
            assert any("unknown" in warning for warning in (*whole.warnings, *streamed.warnings)), name
        assert texts(await on.events(job), attempt=1) == streamed.output.text, name
        if name == "inline thinking":
            is_split = model == "nova-lite"
            assert whole.output.text == ("Yes." if is_split else "<thinking> so it is </thinking>\n\nYes.")
            assert whole.output.content[0]["type"] == ("reasoning" if is_split else "text")


@pytest.mark.parametrize("model", [*MODELS[:-1], "gpt-oss-120b"])
async def test_an_answer_to_a_schema_has_one_form(on: Any, model: str) -> None:
    for name, schema in SCHEMAS.items():
        whole = await on.ask("go on", model=model, output={"schema": schema})
        job = await on.submit("go on", model=model, stream=True, output={"schema": schema})
        streamed = await on.result(job)
        assert form_of(whole) == form_of(streamed), name
        events = await on.events(job)
        assert texts(events, attempt=events[-1].attempt) == streamed.output.text, name
        if whole.state == "succeeded":
            assert json.loads(whole.output.text) == whole.output.structured, name
        else:
            assert whole.error is not None
            assert whole.error.code == "output_invalid", name
            assert len(whole.attempts) == 2, name
