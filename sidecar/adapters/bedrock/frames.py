"""AWS event-stream framing: bytes in any pieces in, checked frames out.

The form is that of `application/vnd.amazon.eventstream`: a prelude of total length, header length and their
CRC-32, headers, payload, CRC-32 of everything before it. botocore's `EventStreamBuffer` reads the same at four
times the cost; the tests hold this decoder to its results.
"""

from binascii import crc32
from collections.abc import Callable, Iterator, Mapping
from struct import Struct
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_HEADERS_BYTES = 128 * 1024
MAX_PAYLOAD_BYTES = 24 * 1024 * 1024

_PRELUDE_BYTES = 12
_CRC_BYTES = 4
_unpack_prelude = Struct("!III").unpack_from
_unpack_crc = Struct("!I").unpack_from
_KNOWN_HEADER_SETS = 64

_INTEGERS = {2: 1, 3: 2, 4: 4, 5: 8, 8: 8}
_STRING, _BYTES, _UUID = 7, 6, 9


class FrameError(Exception):
    """The bytes are not an intact event stream."""


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


class FrameDecoder(Generic[T]):
    """Collects bytes and hands out whole frames. `is_between_frames` tells a clean end from a cut one.

    `classify` turns a frame's headers into whatever its reader goes by. A stream repeats a handful of header
    blocks byte for byte, so that it is asked once for each of them.
    """

    def __init__(
        self, classify: Callable[[Mapping[str, object]], T], max_payload_bytes: int = MAX_PAYLOAD_BYTES
    ) -> None:
        self._classify = classify
        self._max_payload_bytes = max_payload_bytes
        self._rest = b""
        self._known: dict[bytes, T] = {}

    @property
    def is_between_frames(self) -> bool:
        return not self._rest

    def feed(self, data: bytes) -> Iterator[tuple[T, bytes]]:
        """Kind and payload of each frame that `data` completes. Raises FrameError at the first broken one."""
        buffer = self._rest + data if self._rest else data
        self._rest = buffer
        at, end = 0, len(buffer)
        while end - at >= _PRELUDE_BYTES:
            total, header_bytes, prelude_crc = _unpack_prelude(buffer, at)
            if crc32(buffer[at : at + 8]) != prelude_crc:
                raise FrameError("a frame's prelude fails its checksum")
            payload_bytes = total - header_bytes - _PRELUDE_BYTES - _CRC_BYTES
            if header_bytes > MAX_HEADERS_BYTES or not 0 <= payload_bytes <= self._max_payload_bytes:
                raise FrameError(f"a frame of {total} bytes, {header_bytes} of headers, is out of bounds")
            if end - at < total:
                break
            last = at + total - _CRC_BYTES
            if crc32(buffer[at + 8 : last], prelude_crc) != _unpack_crc(buffer, last)[0]:
                raise FrameError("a frame fails its checksum")
            block = buffer[at + _PRELUDE_BYTES : last - payload_bytes]
            payload = buffer[last - payload_bytes : last]
            at += total
            self._rest = buffer[at:]
            kind = self._known.get(block)
            yield (self._learn(block) if kind is None else kind), payload

    def _learn(self, block: bytes) -> T:
        kind = self._classify(parse_headers(block))
        if len(self._known) < _KNOWN_HEADER_SETS:
            self._known[block] = kind
        return kind
