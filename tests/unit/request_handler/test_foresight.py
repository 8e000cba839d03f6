"""What no candidate takes is rejected at once, with its path; a candidate that cannot is passed over."""

from base64 import b64encode
from typing import Any

import pytest

from sidecar.models.event import Status
from tests.support.replica import bench

CLAUDE, NOVA = "claude-sonnet-4-5", "nova-pro"


def image(data: bytes, form: str = "png") -> dict[str, Any]:
    return {"type": "image", "format": form, "source": {"bytes": b64encode(data).decode()}}


def says(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "x"}, *blocks]}]


PNG = image(b"\x89PNG")
STOPS = {"stop": ["a", "b", "c", "d", "e"]}
PREFILL = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{"}]


@pytest.mark.parametrize(
    ("request_", "path", "words"),
    [
        ({"messages": says(image(b"\xff\xd8\xff\xe0"))}, "messages[0].content[1].source", "say format 'jpeg'"),
        ({"messages": says(*[PNG] * 21)}, "messages[0].content[21]", "at most 20 images"),
        ({"model": NOVA, "params": STOPS, "messages": says()}, "params.stop", "at most 4 stop sequences"),
        ({"model": "claude-sonnet-4-6", "messages": PREFILL}, "messages[1]", "no prefilled answer"),
        (
            {"model": [NOVA, CLAUDE], "messages": says(image(b"hello"))},
            "messages[0].content[1].source",
            "does not begin as png does",
        ),
    ],
)
async def test_what_no_candidate_takes_is_rejected_with_its_path(
    request_: dict[str, Any], path: str, words: str
) -> None:
    async with bench() as b:
        await b.replica()
        result = await b.result(await b.submit({"model": CLAUDE, **request_}))
        assert (result.state, b.model.calls) == ("rejected", [])
        assert result.error is not None
        assert (result.error.code, result.error.details["path"]) == ("invalid_request", path)
        assert words in result.error.message


async def test_a_candidate_that_cannot_take_it_is_passed_over_with_the_reason() -> None:
    async with bench() as b:
        await b.replica()
        job = await b.submit({"model": [NOVA, CLAUDE], "params": STOPS, "messages": says()})
        result = await b.result(job)
        assert (result.state, result.model) == ("succeeded", CLAUDE)
        (running,) = [e.data for e in await b.events(job) if isinstance(e.data, Status)]
        assert running.candidates is not None
        assert [(one.model, "stop sequences" in one.reason) for one in running.candidates] == [(NOVA, True)]


async def test_what_can_be_mended_is_run() -> None:
    tool = {"name": "own", "input_schema": {"type": "object", "properties": {"a b": {"type": "string"}}}}
    async with bench() as b:
        await b.replica()
        for model in (CLAUDE, NOVA):
            asked = {"messages": says(PNG), "model": model, "tools": [tool], "params": {"stop": ["\n"]}}
            assert (await b.result(await b.submit(asked))).state == "succeeded"
