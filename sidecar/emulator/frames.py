"""Encoding of `application/vnd.amazon.eventstream` frames.

A frame is: total length, header length, CRC-32 of these eight bytes; headers; payload; CRC-32 of all before.
Each string header is: name length (1 byte), name, type 7, value length (2 bytes), value.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from zlib import crc32

import msgspec

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# The field `p` with each length of padding, ready to replace the closing brace of a payload.
_PADDING_FIELDS = [f',"p":"{_PADDING[:length]}"}}'.encode() for length in range(2, len(_PADDING))]
_STRING = 7
_FIXED_BYTES = 16

_encode_json = msgspec.json.Encoder().encode
_pack_prelude = struct.Struct(">II").pack
_pack_crc = struct.Struct(">I").pack


def _encode_headers(headers: Mapping[str, str]) -> bytes:
    out = bytearray()
    for name, value in headers.items():
        raw_name, raw_value = name.encode(), value.encode()
        out += bytes((len(raw_name),)) + raw_name + bytes((_STRING,))
        out += struct.pack(">H", len(raw_value)) + raw_value
    return bytes(out)


def encode_frame(headers: bytes, payload: bytes) -> bytes:
    """One frame of already encoded headers and payload."""
    prelude = _pack_prelude(_FIXED_BYTES + len(headers) + len(payload), len(headers))
    message = prelude + _pack_crc(crc32(prelude)) + headers + payload
    return message + _pack_crc(crc32(message))


@lru_cache(maxsize=64)
def _event_headers(event_type: str) -> bytes:
    return _encode_headers(
        {":event-type": event_type, ":content-type": "application/json", ":message-type": "event"}
    )


def encode_event(event_type: str, payload: dict[str, Any]) -> bytes:
    """A frame of `:message-type` event. Adds the padding field `p` that the service adds to every payload.

    The padding's length varies with the payload, as the service's does, but equal payloads give equal frames.
    """
    body = _encode_json(payload)
    padding = _PADDING_FIELDS[crc32(body) % len(_PADDING_FIELDS)]
    return encode_frame(_event_headers(event_type), body[:-1] + (padding if payload else padding[1:]))


def encode_exception(exception_type: str, message: str, **members: Any) -> bytes:
    """A frame of `:message-type` exception; the type as in the service model, e.g. `throttlingException`."""
    headers = _encode_headers(
        {":exception-type": exception_type, ":content-type": "application/json", ":message-type": "exception"}
    )
    return encode_frame(headers, _encode_json({"message": message, **members}))


def encode_error(code: str, message: str) -> bytes:
    """A frame of `:message-type` error: an unmodelled failure, told in headers alone."""
    return encode_frame(
        _encode_headers({":message-type": "error", ":error-code": code, ":error-message": message}), b""
    )


def corrupt(frame: bytes) -> bytes:
    """The same frame with a wrong message checksum."""
    return frame[:-1] + bytes((frame[-1] ^ 0xFF,))
