"""Names that nobody can guess: the last token of reply subjects.

Whoever may name a reply subject (JetStream sends acknowledgements where a publisher says) could otherwise count on
from a reply subject that it was told, and answer in another's place.
"""

import os
from base64 import urlsafe_b64encode

TOKEN_CHARACTERS = 22
_BYTES_FOR_TWO = 33
_AT_ONCE = 256


class Tokens:
    """Each token is 132 bits of the operating system's randomness, fetched for many at once: 0.1 µs a token.

    Not for use on both sides of a fork: both would take the same ones.
    """

    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready: list[bytes] = []

    def take(self) -> bytes:
        """22 characters of A-Z a-z 0-9 _ -, never given before."""
        ready = self._ready
        if not ready:
            text = urlsafe_b64encode(os.urandom(_BYTES_FOR_TWO * _AT_ONCE // 2))
            ready.extend(text[at : at + TOKEN_CHARACTERS] for at in range(0, len(text), TOKEN_CHARACTERS))
        return ready.pop()
