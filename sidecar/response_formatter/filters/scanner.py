"""Finding what must not be shown in a text that comes in pieces. Pure.

Detectors look at the text as a reader sees it (`views.py`), and decide about each place by a bounded stretch
around it, so it does not matter where a text is cut: once enough has come after a place, what begins there is
known. What they find is led back to the text as it came. Whole texts go the same way in one piece.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from sidecar.response_formatter.filters.views import View

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
    """Finds stretches of one sort in a text as it is seen. What begins at a place depends on at most `context`
    characters before it and `window` characters from it on, and on nothing else."""

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


Finder = Callable[[str, int], Iterator[Match]]
"""Finds matches behind each other, from a place on. A detector may have some as `disjoint`: each goes on where its
last match ended, so that every character is searched about once."""


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
    """A stretch that goes on for as long as its pattern matches. Places are those of its view."""

    __slots__ = ("at", "most", "pattern", "start", "view")

    def __init__(self, pattern: "re.Pattern[str]", view: View, at: int) -> None:
        self.pattern = pattern
        self.view = view
        self.start = self.at = at
        self.most = at + LONGEST_TAIL

    def extend(self, *, is_end: bool) -> bool:
        """Go as far as the text allows. True while more text could make it longer still."""
        text, base = self.view.text, self.view.base
        most = self.most - base
        stop = min(len(text) if is_end else len(text) - TAIL_LOOK, most)
        at = self.at - base
        while at < stop and (unit := self.pattern.match(text, at, most)) is not None:
            at = unit.end()
        self.at = base + at
        return stop <= at < most and not is_end

    def is_around(self, place: int) -> bool:
        return self.start <= place <= self.at


class _Found(NamedTuple):
    """What a rule found, in places of the text as it came."""

    start: int
    end: int
    rank: int
    match: Match
    view: View
    finder: int = -1
    """Which of the finders of disjoint matches it came from."""


class Scanner:
    """One text as it comes, seen by all rules at once: what they find is decided on the same original.

    Rules look at the text with its markup, and where that makes a difference also at what it renders to. Stretches
    that overlap become one placeholder, the first one's, and so do those that follow each other without a gap when
    they are of the same kind. `on_found(rule, kind)` is told of each that was redacted, flagged or blocked. Once
    `blocked` is set, nothing more is let through.
    """

    def __init__(self, rules: Sequence[FilterRule], on_found: Callable[[FilterRule, str], None]) -> None:
        self._rules = rules
        self._on_found = on_found
        self._context = max((rule.detector.context for rule in rules), default=0) + 1
        self._views = (View(is_rendered=False), View(is_rendered=True))
        self._text = ""
        self._base = 0
        self._came = 0
        self._done = 0
        self._hidden = 0
        self._hidden_by: tuple[str, str] | None = None
        self._tails: list[_Tail] = []
        self._last_tails: dict[tuple[re.Pattern[str], bool], _Tail] = {}
        self._flagged = [0] * len(rules)
        self._finders = [
            (rank, finder) for rank, rule in enumerate(rules) for finder in getattr(rule.detector, "disjoint", ())
        ]
        # Where each goes on, in each view.
        self._resumed = {view: [0] * len(self._finders) for view in self._views}
        self.blocked: BlockMatch | None = None

    @property
    def held(self) -> int:
        """How many characters have come and are not decided yet."""
        return self._came - self._done

    def feed(self, text: str, *, is_end: bool = False) -> list[Piece]:
        """What may be shown now. `is_end`: no more text comes."""
        if self.blocked is not None:
            return []
        self._text += text
        self._came += len(text)
        for view in self._views:
            view.feed(text, is_end=is_end)
        if self._tails:
            self._extend(is_end=is_end)
        views = self._views[:1] if self._views[0].text == self._views[1].text else self._views
        limit = self._came if is_end else self._limit(views)
        if limit <= self._done:
            return []
        pieces, self._done = self._decide(views, limit, is_end=is_end)
        self._forget()
        return pieces

    def _forget(self) -> None:
        self._text = self._text[self._done - self._base :]
        self._base = self._done
        for view in self._views:
            view.forget(view.seen_from(self._done) - self._context)

    def _limit(self, views: Sequence[View]) -> int:
        """Up to where everything that begins is known."""
        limit = settled = min(view.known for view in self._views)
        for view in views:
            text, base, size = view.text, view.base, len(view.text)
            since = view.seen_from(self._done) - base
            for rule in self._rules:
                at = rule.detector.settled(text, since)
                settled = min(settled, _known(view, at))
                limit = min(limit, _known(view, max(size - rule.detector.window, at)))
        # Text without an end to any word is looked at in larger steps, or each piece would cost a whole look.
        return limit if limit >= self._done + (1 if settled >= limit else STEP) else self._done

    def _decide(self, views: Sequence[View], limit: int, *, is_end: bool) -> tuple[list[Piece], int]:
        pieces: list[Piece] = []
        at = self._done
        for one in self._all(views, limit):
            rule = self._rules[one.rank]
            if self._tails and one.start >= self._hidden:
                break
            if one.finder >= 0:
                self._resumed[one.view][one.finder] = one.view.base + one.match.end
            if rule.action == "flag":
                self._flag(one)
            elif rule.action == "block":
                self.blocked = BlockMatch(rule.name, one.match.kind)
                self._on_found(rule, one.match.kind)
                return [], limit
            else:
                if not self._is_hidden(rule, one):
                    self._show(pieces, at, one.start)
                    at = one.start
                    pieces.append(Piece(at, rule.shown(one.match.kind), is_own=True))
                    self._on_found(rule, one.match.kind)
                    self._hidden_by = (rule.name, one.match.kind)
                self._hide(one, is_end=is_end)
        if self._tails:
            limit = min(limit, self._hidden)
        self._show(pieces, at, limit)
        return pieces, limit

    def _all(self, views: Sequence[View], limit: int) -> list[_Found]:
        """What all rules find in the views, from where is decided up to a limit: the first and longest first."""
        found: list[_Found] = []
        for view in views:
            base = view.base
            since = max(0, view.seen_from(self._done) - base)
            for rank, rule in enumerate(self._rules):
                for match in rule.detector.find(view.text, since):
                    if match.start < since:
                        continue
                    start = view.raw_start(base + match.start)
                    if self._done <= start < limit:
                        found.append(_Found(start, view.raw_end(base + match.end), rank, match, view))
        for view in self._views if self._finders else ():
            # In both, even where they are the same now: where a match begins depends on those before it.
            self._disjoint(view, limit, found)
        found.sort(key=_first_then_longest)
        return found

    def _disjoint(self, view: View, limit: int, found: list[_Found]) -> None:
        base, resumed = view.base, self._resumed[view]
        since = max(0, view.seen_from(self._done) - base)
        for at, (rank, finder) in enumerate(self._finders):
            for match in finder(view.text, max(since, resumed[at] - base)):
                start = view.raw_start(base + match.start)
                if start >= limit:
                    break
                found.append(_Found(start, view.raw_end(base + match.end), rank, match, view, at))

    def _flag(self, one: _Found) -> None:
        if one.start >= self._flagged[one.rank]:
            self._on_found(self._rules[one.rank], one.match.kind)
        self._flagged[one.rank] = max(self._flagged[one.rank], one.end)

    def _is_hidden(self, rule: FilterRule, one: _Found) -> bool:
        start = one.start
        return start < self._hidden or (start == self._hidden and self._hidden_by == (rule.name, one.match.kind))

    def _hide(self, one: _Found, *, is_end: bool) -> None:
        self._hidden = max(self._hidden, one.end)
        pattern, view = one.match.tail, one.view
        if pattern is None:
            return
        place = view.base + one.match.end
        last = self._last_tails.get((pattern, view is self._views[0]))
        if last is not None and last.is_around(place):
            # It lies in a stretch of its own kind, and ends with that.
            return
        self._last_tails[pattern, view is self._views[0]] = tail = _Tail(pattern, view, place)
        self._tails.append(tail)
        self._extend(is_end=is_end)

    def _extend(self, *, is_end: bool) -> None:
        growing = []
        for tail in self._tails:
            if tail.extend(is_end=is_end):
                growing.append(tail)
            self._hidden = max(self._hidden, tail.view.raw_end(tail.at))
        self._tails = growing

    def _show(self, pieces: list[Piece], start: int, end: int) -> None:
        start = max(start, self._hidden)
        if start < end:
            pieces.append(Piece(start, self._text[start - self._base : end - self._base]))


def _known(view: View, at: int) -> int:
    """What is decided of the text as it came where of what is seen so much is."""
    if at <= 0:
        return 0
    return view.known if at >= len(view.text) else view.raw_start(view.base + at)


def _first_then_longest(found: _Found) -> tuple[int, int, int]:
    return found.start, -found.end, found.rank


def found_in(
    text: str, rules: Sequence[FilterRule], on_found: Callable[[FilterRule, str], None]
) -> tuple[str, BlockMatch | None]:
    """A whole text, as it may be shown, and what blocked it."""
    scanner = Scanner(rules, on_found)
    pieces = scanner.feed(text, is_end=True)
    return "".join(piece.text for piece in pieces), scanner.blocked
