"""The frame decoder against botocore's."""

import itertools
from collections.abc import Mapping

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.adapters.bedrock.frames import FrameDecoder, FrameError, parse_headers
from tests.support.raw_bedrock import METADATA, START, STOP, exception, frame, text

STREAM = START + text("Hello") + text("wörld " * 50) + STOP + METADATA + exception("throttlingException")


def decoder(**options: int) -> FrameDecoder[Mapping[str, object]]:
    return FrameDecoder(lambda headers: headers, **options)


def botocore_frames(data: bytes) -> list[tuple[dict[str, object], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, message.payload) for message in buffer]


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_split_of_the_bytes_gives_botocores_frames(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reading = decoder()
    found = []
    for start, end in itertools.pairwise(edges):
        found.extend(reading.feed(STREAM[start:end]))
    assert found == botocore_frames(STREAM)
    assert reading.is_between_frames


@settings(deadline=None)
@given(
    payload=st.binary(max_size=300),
    headers=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,19}", fullmatch=True), st.text(st.characters(codec="ascii"), max_size=30)
    ),
)
def test_any_frame_reads_as_botocore_reads_it(payload: bytes, headers: dict[str, str]) -> None:
    headers.pop("payload", None)
    data = frame(payload, **headers)
    assert list(decoder().feed(data)) == botocore_frames(data)


@settings(deadline=None)
@given(place=st.integers(0, len(STREAM) - 1), flip=st.integers(1, 255))
def test_one_wrong_byte_never_passes(place: int, flip: int) -> None:
    data = bytearray(STREAM)
    data[place] ^= flip
    whole = botocore_frames(STREAM)
    reading = decoder()
    found: list[tuple[Mapping[str, object], bytes]] = []
    try:
        for each in reading.feed(bytes(data)):
            found.append(each)
    except FrameError:
        pass
    else:
        assert not reading.is_between_frames
    assert found == whole[: len(found)]
    assert len(found) < len(whole)


@settings(deadline=None)
@given(end=st.integers(1, len(STREAM) - 1))
def test_a_cut_stream_is_not_between_frames_unless_cut_at_an_edge(end: int) -> None:
    reading = decoder()
    found = list(reading.feed(STREAM[:end]))
    size = sum(len(frame_bytes) for frame_bytes in split_frames()[: len(found)])
    assert reading.is_between_frames == (size == end)


def split_frames() -> list[bytes]:
    frames, at = [], 0
    while at < len(STREAM):
        size = int.from_bytes(STREAM[at : at + 4], "big")
        frames.append(STREAM[at : at + size])
        at += size
    return frames


def test_header_types_read_as_botocore_reads_them() -> None:
    block = (
        b"\x01a\x00\x01b\x01\x01c\x02\xff\x01d\x03\xff\xfe\x01e\x04\x00\x00\x00\x07"
        b"\x01f\x05\xff\xff\xff\xff\xff\xff\xff\xff\x01g\x06\x00\x02xy\x01h\x07\x00\x02hi\x01i\x08"
        b"\x00\x00\x00\x00\x00\x00\x00\x05\x01j\x090123456789abcdef"
    )
    from botocore.eventstream import EventStreamHeaderParser

    assert parse_headers(block) == EventStreamHeaderParser().parse(block)


@pytest.mark.parametrize(
    "block",
    [b"\x05ab", b"\x01a\x0a", b"\x01a\x07\x00\x05hi", b"\x01a\x00\x01a\x00", b"\x01\xff\x00"],
    ids=["cut name", "unknown type", "cut value", "twice", "not UTF-8"],
)
def test_malformed_headers_are_refused(block: bytes) -> None:
    with pytest.raises(FrameError):
        parse_headers(block)


def test_a_frame_beyond_the_bound_is_refused_before_it_has_come() -> None:
    data = frame(b"x" * 2000, event_type="metadata")
    with pytest.raises(FrameError, match="out of bounds"):
        list(decoder(max_payload_bytes=1000).feed(data[:16]))
