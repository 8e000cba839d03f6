"""The estimate of input tokens: its rules, and how far off it is against recorded calls."""

import struct
import zlib
from statistics import median

import hypothesis.strategies as st
import pytest
from hypothesis import given

from benchmarks.fairness_estimate import measure
from sidecar.coordinator.token_estimate import (
    RULES,
    call_tokens,
    document_tokens,
    image_size,
    image_tokens,
    next_call_tokens,
    request_tokens,
    text_tokens,
)
from sidecar.models.call import ToolSpec
from sidecar.models.content import DocumentBlock, ImageBlock, Message, Source, TextBlock, ToolResultBlock
from sidecar.models.request import InlineTool, JobRequest, OutputSpec

MEASURED = measure()


def png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + head
        + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    )


@pytest.mark.skipif(not MEASURED, reason="no recordings beside the repository (../shared/recordings)")
def test_estimates_of_recorded_calls_are_near_the_counted_tokens() -> None:
    text = [m for m in MEASURED if m.is_text and m.actual >= 100]
    claude = [m for m in text if m.family == "claude"]
    assert len(claude) >= 20
    assert median(abs(m.error) for m in claude) < 0.15
    assert median(abs(m.error) for m in text) < 0.30
    assert abs(sum(m.estimate for m in MEASURED) / sum(m.actual for m in MEASURED) - 1) < 0.25


def test_plain_text_is_about_four_characters_a_token() -> None:
    assert text_tokens("a" * 3_900) == pytest.approx(1_000, rel=0.01)


def test_scripts_without_spaces_are_about_a_token_a_character() -> None:
    assert text_tokens("日本語の文章です" * 100) == pytest.approx(800, rel=0.02)


@given(st.text(max_size=300), st.text(max_size=300))
def test_more_text_is_never_fewer_tokens(one: str, other: str) -> None:
    assert text_tokens(one + other) >= max(text_tokens(one), text_tokens(other)) - 1


def test_tools_count_with_their_schemas_and_the_familys_tool_prompt() -> None:
    tool = InlineTool(name="search", description="find things", input_schema={"type": "object"})
    plain = JobRequest(messages=(Message(role="user", content="hi"),))
    with_tool = JobRequest(messages=plain.messages, tools=(tool,))
    spec = ToolSpec(name=tool.name, description=tool.description, input_schema=tool.input_schema)
    assert request_tokens(with_tool) > request_tokens(plain) + RULES["claude"].tool_prompt
    assert request_tokens(with_tool) == request_tokens(plain, tools=[spec])
    assert request_tokens(with_tool, family="nova") > request_tokens(with_tool)


def test_a_schema_for_the_answer_counts_where_the_model_reads_it() -> None:
    plain = JobRequest(messages=(Message(role="user", content="hi"),))
    with_schema = JobRequest(messages=plain.messages, output=OutputSpec(schema={"type": "object"}))
    assert request_tokens(with_schema) > request_tokens(plain) + 100
    assert request_tokens(with_schema, family="other") == request_tokens(plain, family="other")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(640, 480), (640, 480)),
        (b"GIF89a" + struct.pack("<HH", 32, 16) + b"\0" * 4, (32, 16)),
        (b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + b"\xff\x01\x00\xff\x00\x00", (512, 256)),
        (b"RIFF\0\0\0\0WEBPVP8L" + b"\0" * 5 + struct.pack("<I", 99 | (49 << 14)) + b"\0" * 5, (100, 50)),
        (b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 300, 200), (300, 200)),
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 90, 120) + b"\0" * 8, (120, 90)),
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00", None),
        (b"not an image", None),
        (b"", None),
    ],
)
def test_image_sizes_are_read_from_the_head_of_the_file(data: bytes, size: tuple[int, int] | None) -> None:
    assert image_size(data) == size


@given(st.binary(max_size=64))
def test_any_bytes_may_stand_where_an_image_should(data: bytes) -> None:
    for prefix in (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8L", b"\xff\xd8\xff"):
        size = image_size(prefix + data)
        assert size is None or len(size) == 2


def test_images_cost_by_their_pixels_up_to_a_bound() -> None:
    small = Source(data=png(300, 300))
    large = Source(data=png(4_000, 4_000))
    assert image_tokens(small, RULES["claude"]) == 120
    assert image_tokens(large, RULES["claude"]) == 1_600
    assert image_tokens(small, RULES["nova"]) == 1_600
    assert image_tokens(Source(object="picture"), RULES["claude"]) == 1_600


def test_documents_cost_by_their_text_or_their_pages() -> None:
    text = DocumentBlock(source=Source(data=b"x" * 3_900), format="txt")
    pages = DocumentBlock(source=Source(data=b"/Type /Pages /Type /Page /Type/Page "), format="pdf")
    opaque = DocumentBlock(source=Source(data=b"\0" * 90_000), format="docx")
    rule = RULES["claude"]
    assert document_tokens(text, rule) == pytest.approx(1_000, rel=0.01)
    assert document_tokens(pages, rule) == 2 * rule.page
    assert document_tokens(opaque, rule) == 3 * rule.page
    assert document_tokens(DocumentBlock(source=Source(object="o"), format="pdf"), rule) == 5_000


def test_the_next_call_of_a_tool_loop_builds_on_what_was_counted() -> None:
    result = ToolResultBlock(tool_use_id="t1", content="x" * 390)
    grown = next_call_tokens(5_000, output_tokens=300, results=[result], family="claude")
    assert grown == pytest.approx(5_000 + 300 + 115, abs=10)


def test_all_kinds_of_content_are_counted() -> None:
    blocks = (TextBlock(text="look"), ImageBlock(source=Source(data=png(300, 300)), format="png"))
    nested = (Message(role="user", content=(ToolResultBlock(tool_use_id="t", content=blocks),)),)
    assert call_tokens(nested, system="be brief", tools=[], family="claude") > 120
