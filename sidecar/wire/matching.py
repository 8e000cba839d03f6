"""Whether a message that came for a subscription could have been meant for it."""

import logging
import re
import time
from collections.abc import Callable

from sidecar.models.shown import shown

log = logging.getLogger(__name__)

# Of denials, in each such time.
DENIALS_LOGGED = 5
LOGGED_EVERY_S = 60.0

Matcher = Callable[[bytes], object]
"""Takes a subject as it came; true for one that the subscription asked for."""


def matcher(pattern: str) -> Matcher:
    """Made once for each subscription: equality for a plain subject, a compiled expression for wildcards.

    As the server has it, `*` stands for one token and a last `>` for one or more; no token is empty.
    """
    tokens = pattern.encode().split(b".")
    if b"*" not in tokens and tokens[-1] != b">":
        return pattern.encode().__eq__
    rest = rb"[^.]+(?:\.[^.]+)*" if tokens[-1] == b">" else None
    fixed = tokens[:-1] if rest is not None else tokens
    parts = [rb"[^.]+" if token == b"*" else re.escape(token) for token in fixed]
    if rest is not None:
        parts.append(rest)
    return re.compile(rb"\.".join(parts)).fullmatch


class Misdelivered:
    """Counts messages that came for a subscription and do not fit it, and logs one a minute."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._logged_at = float("-inf")

    def note(self, pattern: str, subject: bytes) -> None:
        """A message was dropped because its subject is not one of the subscription's."""
        self.count += 1
        now = self._clock()
        if now - self._logged_at >= LOGGED_EVERY_S:
            self._logged_at = now
            log.warning(
                "dropped a message on %s that came for the subscription %s (%d so far): "
                "somebody forges messages, or the server is at fault",
                shown(subject.decode("utf-8", "replace")),
                pattern,
                self.count,
            )


class Denials:
    """Counts what the server denied this process, and logs a few a minute: a stranger can have us denied something
    as often as it asks for an answer where we may not write.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._since = float("-inf")
        self._logged = 0

    def note(self, text: str) -> None:
        """The server's words."""
        self.count += 1
        now = self._clock()
        if now - self._since >= LOGGED_EVERY_S:
            self._since, self._logged = now, 0
        self._logged += 1
        if self._logged <= DENIALS_LOGGED:
            log.error("NATS denied something (%d so far): %s", self.count, shown(text, 300))
