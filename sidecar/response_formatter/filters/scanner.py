"""Finding what must not be shown in a text that comes in pieces. Pure.

A detector decides about each place of a text by a bounded stretch around it, so it does not matter where a text
is cut: once enough has come after a place, what begins there is known. Whole texts go the same way in one piece.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

Action = Literal["redact", "block", "flag"]

# A tail's pattern may look so far ahead; so much of it is left undecided until more comes.
TAIL_LOOK = 32
LONGEST_TAIL = 64 * 1024
STEP = 96


class Match(NamedTuple):
    """A stretch of text from `start` up to `end`.

    `tail` matches what belongs to it still, however long that may be: a key of which only the beginning is needed
    to know it for one.
    """

    start: int
    end: int
    kind: str
    tail: "re.Pattern[str] | None" = None


class Detector(Protocol):
    """Finds stretches of one sort. What begins at a place depends on at most `context` characters before it and
    `window` characters from it on, and on nothing else."""

    @property
    def window(self) -> int: ...

    @property
    def context(self) -> int: ...

    def find(self, text: str, start: int) -> Sequence[Match]:
        """All that begins at or after `start`, in any order; earlier ones may be among them."""
        ...

    def settled(self, text: str, start: int) -> int:
        """Up to where more text cannot change what is found, if that is more than `window` before the end.

        `start` is where that is certain already. 0 where nothing can be said.
        """
        ...


class RuleSource(msgspec.Struct, frozen=True, array_like=True):
    """What the configuration says of a rule: enough to make it again, in another process."""

    name: str
    action: Action
    kind: str
    options: dict[str, Any]


class FilterRule(NamedTuple):
    name: str
    action: Action
    detector: Detector
    placeholder: str = "[{KIND}]"
    source: RuleSource | None = None

    def shown(self, kind: str) -> str:
        """What stands in a redacted stretch's place."""
        return self.placeholder.replace("{KIND}", kind.upper()).replace("{kind}", kind)


def each_start(pattern: "re.Pattern[str]", text: str, since: int) -> "Iterator[re.Match[str]]":
    """The match at each place where one begins, overlapping ones too: what is found must not depend on where
    looking began."""
    match = pattern.search(text, since)
    while match is not None:
        yield match
        match = pattern.search(text, match.start() + 1)


class Piece(NamedTuple):
    """Text that may be shown. `at` is where it stood in the text that came; `is_own`: it is no part of that."""

    at: int
    text: str
    is_own: bool = False


class BlockMatch(NamedTuple):
    name: str
    kind: str


class _Tail:
    """A stretch that goes on for as long as its pattern matches."""

    __slots__ = ("at", "most", "pattern", "start")

    def __init__(self, pattern: "re.Pattern[str]", at: int) -> None:
        self.pattern = pattern
        self.start = self.at = at
        self.most = at + LONGEST_TAIL

    def extend(self, text: str, base: int, *, is_end: bool) -> bool:
        """Go as far as the text allows. True while more text could make it longer still."""
        most = self.most - base
        stop = min(len(text) if is_end else len(text) - TAIL_LOOK, most)
        at = self.at - base
        while at < stop and (unit := self.pattern.match(text, at, most)) is not None:
            at = unit.end()
        self.at = base + at
        return stop <= at < most and not is_end


class Scanner:
    """One text as it comes, seen by all rules at once: what they find is decided on the same original.

    Stretches that overlap become one placeholder, the first one's, and so do those that follow each other without
    a gap when they are of the same kind. `on_found(rule, kind)` is told of each that was redacted, flagged or
    blocked. Once `blocked` is set, nothing more is let through.
    """

    def __init__(self, rules: Sequence[FilterRule], on_found: Callable[[FilterRule, str], None]) -> None:
        self._rules = rules
        self._on_found = on_found
        self._context = max((rule.detector.context for rule in rules), default=0) + 1
        self._text = ""
        self._base = 0
        self._done = 0
        self._hidden = 0
        self._hidden_by: tuple[str, str] | None = None
        self._tails: list[_Tail] = []
        self._last_tails: dict[re.Pattern[str], _Tail] = {}
        self._flagged = [0] * len(rules)
        self.blocked: BlockMatch | None = None

    @property
    def held(self) -> int:
        """How many characters have come and are not decided yet."""
        return self._base + len(self._text) - self._done

    def feed(self, text: str, *, is_end: bool = False) -> list[Piece]:
        """What may be shown now. `is_end`: no more text comes."""
        if self.blocked is not None:
            return []
        self._text += text
        if self._tails:
            self._extend(is_end=is_end)
        limit = self._limit(is_end=is_end)
        done = self._done - self._base
        if limit <= done:
            return []
        pieces, limit = self._decide(done, limit, is_end=is_end)
        self._done = self._base + limit
        if (spare := limit - self._context) > 0:
            self._text = self._text[spare:]
            self._base += spare
        return pieces

    def _limit(self, *, is_end: bool) -> int:
        """Up to where everything that begins is known."""
        size, done = len(self._text), self._done - self._base
        if is_end:
            return size
        limit = settled = size - TAIL_LOOK if self._tails else size
        for rule in self._rules:
            at = rule.detector.settled(self._text, done)
            settled = min(settled, at)
            limit = min(limit, max(size - rule.detector.window, at))
        # Text without an end to any word is looked at in larger steps, or each piece would cost a whole look.
        return limit if limit >= done + (1 if settled >= limit else STEP) else done

    def _decide(self, start: int, limit: int, *, is_end: bool) -> tuple[list[Piece], int]:
        found: list[tuple[int, int, int, Match]] = []
        for rank, rule in enumerate(self._rules):
            for one in rule.detector.find(self._text, start):
                if start <= one.start < limit:
                    found.append((one.start, -one.end, rank, one))
        found.sort(key=_first_then_longest)
        pieces: list[Piece] = []
        at = start
        for _, _, rank, one in found:
            rule = self._rules[rank]
            if self._tails and self._base + one.start >= self._hidden:
                break
            if rule.action == "flag":
                self._flag(rank, one)
            elif rule.action == "block":
                self.blocked = BlockMatch(rule.name, one.kind)
                self._on_found(rule, one.kind)
                return [], limit
            else:
                if not self._is_hidden(rule, one):
                    self._show(pieces, at, one.start)
                    at = one.start
                    pieces.append(Piece(self._base + at, rule.shown(one.kind), is_own=True))
                    self._on_found(rule, one.kind)
                    self._hidden_by = (rule.name, one.kind)
                self._hide(one, is_end=is_end)
        if self._tails:
            limit = min(limit, self._hidden - self._base)
        self._show(pieces, at, limit)
        return pieces, limit

    def _flag(self, rank: int, one: Match) -> None:
        if self._base + one.start >= self._flagged[rank]:
            self._on_found(self._rules[rank], one.kind)
        self._flagged[rank] = max(self._flagged[rank], self._base + one.end)

    def _is_hidden(self, rule: FilterRule, one: Match) -> bool:
        start = self._base + one.start
        return start < self._hidden or (start == self._hidden and self._hidden_by == (rule.name, one.kind))

    def _hide(self, one: Match, *, is_end: bool) -> None:
        self._hidden = max(self._hidden, self._base + one.end)
        if one.tail is None:
            return
        last = self._last_tails.get(one.tail)
        if last is not None and last.start <= self._base + one.end <= last.at:
            # It lies in a stretch of its own kind, and ends with that.
            return
        self._last_tails[one.tail] = tail = _Tail(one.tail, self._base + one.end)
        self._tails.append(tail)
        self._extend(is_end=is_end)

    def _extend(self, *, is_end: bool) -> None:
        growing = []
        for tail in self._tails:
            if tail.extend(self._text, self._base, is_end=is_end):
                growing.append(tail)
            self._hidden = max(self._hidden, tail.at)
        self._tails = growing

    def _show(self, pieces: list[Piece], start: int, end: int) -> None:
        start = max(start, self._hidden - self._base)
        if start < end:
            pieces.append(Piece(self._base + start, self._text[start:end]))


def _first_then_longest(found: tuple[int, int, int, Match]) -> tuple[int, int, int]:
    return found[:3]


def found_in(
    text: str, rules: Sequence[FilterRule], on_found: Callable[[FilterRule, str], None]
) -> tuple[str, BlockMatch | None]:
    """A whole text, as it may be shown, and what blocked it."""
    scanner = Scanner(rules, on_found)
    pieces = scanner.feed(text, is_end=True)
    return "".join(piece.text for piece in pieces), scanner.blocked
