"""Header blocks as they came: written by anybody, checked by nobody. Reading one never raises."""

VERSION = b"NATS/1.0"
_STATUS_AT = len(VERSION)
SERVER_HEADERS = b"Nats-Stream: "
"""Begins what JetStream appends to a stored message's block. Its last occurrence is the server's: all that follows
of the publisher's is the subject, which holds no blank. It need not begin a line: the server cuts the last two
bytes off the publisher's block, whatever they are."""
_BLANKS = " \t"


def decode_headers(raw: bytes) -> dict[str, str]:
    """The headers of a block `NATS/1.0[ status text]\\r\\nName: value\\r\\n…\\r\\n\\r\\n`.

    The first value of each name counts. Only CR LF ends a line, and only blanks and tabs are taken off a value:
    what else strangers put there stays to be seen by whoever checks the value. What is no UTF-8 becomes U+FFFD.
    """
    headers: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and name not in headers:
            headers[name] = value.strip(_BLANKS)
    return headers


def status_of(raw: bytes) -> int | None:
    """The number of an inline status, None for an ordinary message.

    A publisher may write a status into its own message, and it is stored so: what JetStream says it had stored is
    a message whatever its first line.
    """
    if raw[_STATUS_AT : _STATUS_AT + 1] != b" " or SERVER_HEADERS in raw:
        return None
    digits = raw[_STATUS_AT + 1 : _STATUS_AT + 4]
    return int(digits) if digits.isdigit() else None


def description_of(raw: bytes) -> str:
    """The text behind an inline status."""
    line, _, _ = raw.partition(b"\r\n")
    return line[_STATUS_AT + 5 :].decode("utf-8", "replace").strip(_BLANKS)
