"""AWS event-stream framing: bytes in any pieces in, checked frames out.

The form is that of `application/vnd.amazon.eventstream`: a prelude of total length, header length and their
CRC-32, headers, payload, CRC-32 of everything before it. botocore's `EventStreamBuffer` reads the same at four
times the cost; the tests hold this decoder to its results.
"""

from binascii import crc32
from collections.abc import Iterator, Mapping
from struct import Struct
from typing import NamedTuple

MAX_HEADERS_BYTES = 128 * 1024
MAX_PAYLOAD_BYTES = 24 * 1024 * 1024

_PRELUDE = Struct("!III")
_UINT32 = Struct("!I")
_CRC_BYTES = 4
_KNOWN_HEADER_SETS = 64

_INTEGERS = {2: 1, 3: 2, 4: 4, 5: 8, 8: 8}
_STRING, _BYTES, _UUID = 7, 6, 9


class FrameError(Exception):
    """The bytes are not an intact event stream."""


class Frame(NamedTuple):
    headers: Mapping[str, object]
    payload: bytes


def parse_headers(block: bytes) -> dict[str, object]:
    """Headers of a frame by name. Raises FrameError for anything malformed, duplicates included."""
    headers: dict[str, object] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            name = block[at + 1 : name_end].decode()
            if name in headers:
                raise FrameError(f"the header {name!r} comes twice")
            headers[name], at = _value(block, name_end + 1, block[name_end])
    except (IndexError, UnicodeDecodeError) as e:
        raise FrameError("the frame's headers are malformed") from e
    if at != len(block):
        raise FrameError("the frame's headers are cut")
    return headers


def _value(block: bytes, at: int, kind: int) -> tuple[object, int]:
    if kind in (0, 1):
        return kind == 0, at
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(block[at:end], "big", signed=True), end
    if kind in (_STRING, _BYTES):
        end = at + 2 + int.from_bytes(block[at : at + 2], "big")
        raw = block[at + 2 : end]
        return (raw.decode() if kind == _STRING else raw), end
    if kind == _UUID:
        return block[at : at + 16], at + 16
    raise FrameError(f"a header has the unknown type {kind}")


class FrameDecoder:
    """Collects bytes and yields whole frames. `is_between_frames` tells a clean end from a cut one."""

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._rest = b""
        self._max_payload_bytes = max_payload_bytes
        self._known: dict[bytes, dict[str, object]] = {}

    @property
    def is_between_frames(self) -> bool:
        return not self._rest

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames that `data` completes. Raises FrameError at the first one that is broken or too large."""
        buffer = self._rest + data if self._rest else data
        at, end = 0, len(buffer)
        self._rest = buffer
        while end - at >= _PRELUDE.size:
            total, header_bytes, prelude_crc = _PRELUDE.unpack_from(buffer, at)
            if crc32(buffer[at : at + 8]) != prelude_crc:
                raise FrameError("a frame's prelude fails its checksum")
            self._check_lengths(total, header_bytes)
            if end - at < total:
                break
            last = at + total - _CRC_BYTES
            if crc32(buffer[at + 8 : last], prelude_crc) != _UINT32.unpack_from(buffer, last)[0]:
                raise FrameError("a frame fails its checksum")
            headers_end = at + _PRELUDE.size + header_bytes
            frame = Frame(self._headers(buffer[at + _PRELUDE.size : headers_end]), buffer[headers_end:last])
            at += total
            self._rest = buffer[at:] if at < end else b""
            yield frame
        self._rest = buffer[at:] if at < end else b""

    def _check_lengths(self, total: int, header_bytes: int) -> None:
        payload_bytes = total - header_bytes - _PRELUDE.size - _CRC_BYTES
        if payload_bytes < 0 or header_bytes > MAX_HEADERS_BYTES or payload_bytes > self._max_payload_bytes:
            raise FrameError(f"a frame of {total} bytes with {header_bytes} bytes of headers is out of bounds")

    def _headers(self, block: bytes) -> dict[str, object]:
        # A stream repeats a handful of header blocks, byte for byte.
        known = self._known.get(block)
        if known is None:
            known = parse_headers(block)
            if len(self._known) < _KNOWN_HEADER_SETS:
                self._known[block] = known
        return known
