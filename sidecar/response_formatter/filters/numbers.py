"""Runs of digits as people write them, in groups with spaces, hyphens or dots between; and cards among them."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

from sidecar.response_formatter.filters.scanner import Match

CONTEXT = 64
MOST_DIGITS = 19
LEAST_DIGITS = 7
_MOST_GROUPS = 8
_NEAR = 48
# So many groups so near before: the inside of a list, where each stretch would have to be looked at in vain.
_MOST_BEFORE = 12

_SPACES = " \t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_DASHES = ".\\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_GROUP = re.compile(r"\d+")
_RUN = re.compile(rf"\d+(?:[{_SPACES}{_DASHES}/()·]{{1,4}}\d+)*")
_TIES = "-./_:"

# Issuers' numbers by ISO/IEC 7812: first digits and lengths, from the networks' published ranges.
_CARDS = re.compile(
    r"(?:4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}(?:\d{2})?|6(?:011|5\d\d|4[4-9]\d)\d{12}(?:\d{3})?|35(?:2[89]|[3-8]\d)\d{12}(?:\d{3})?"
    r"|62\d{14,17}|(?:5018|5020|5038|56\d\d|57\d\d|58\d\d|6304|6759|676[1-3])\d{8,15}|(?:60|65|81|82|508)\d{13,14})"
)
_CARD_WORDS = re.compile(
    r"\bcards?\b|karte|tarjeta|\bcarte|\bcarta\b|cart[ãa]o|kaart|\bkart|visa|master|maestro|amex|american exp"
    r"|discover|diners|\bjcb\b|\bcredit\b|\bdebit\b|карт|卡|कार्ड|カード|카드"
)
# An extension goes with the number before it.
EXTENSION = re.compile(r"[ \xa0]?(?:x|ext\.?)[ \xa0]?\d{1,6}(?![^\W_])")


class Group(NamedTuple):
    start: int
    end: int
    digits: str
    gap: str
    """What stands between this group and the one before; empty for a run's first."""


class Stretch(NamedTuple):
    """Neighbouring groups of a run, read as one number."""

    start: int
    end: int
    digits: str
    sizes: tuple[int, ...]
    gaps: tuple[str, ...]
    is_bare: bool
    """Whether no hyphen, dot or slash ties it to more letters or digits."""
    is_alone: bool
    """Whether no other group of digits stands next to it, as in a list of numbers."""


class DigitRun:
    """Groups of digits close enough to be one number."""

    def __init__(self, text: str, groups: list[Group]) -> None:
        self.text = text
        self.groups = groups
        self._announced: dict[int, bool] = {}

    def is_announced(self, at: int, announces: Callable[[str], bool]) -> bool:
        """Whether what stands before a place says what follows; asked once a place."""
        known = self._announced.get(at)
        if known is None:
            known = self._announced[at] = announces(before(self.text, at))
        return known

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        return tuple(self._all())

    def _all(self) -> Iterator[Stretch]:
        groups = self.groups
        near = 0
        for first in range(len(groups)):
            while groups[near].start < groups[first].start - _NEAR:
                near += 1
            if first - near >= _MOST_BEFORE:
                continue
            if _touches_word(self.text, groups[first].start - 1):
                continue
            yield from self._from(first)

    def _from(self, first: int) -> Iterator[Stretch]:
        """Those that begin with a group."""
        groups, text, start = self.groups, self.text, self.groups[first].start
        is_tail: bool | None = None
        digits, sizes, gaps = "", (), ()  # type: tuple[str, tuple[int, ...], tuple[str, ...]]
        for last in range(first, min(len(groups), first + _MOST_GROUPS)):
            group = groups[last]
            digits += group.digits
            if len(digits) > MOST_DIGITS:
                break
            sizes += (len(group.digits),)
            gaps += (group.gap,) if last > first else ()
            if len(digits) < LEAST_DIGITS or not self._ends(group.end):
                continue
            is_bare = _is_bare(text, start, group.end)
            if is_bare:
                is_tail = self._is_tail(first) if is_tail is None else is_tail
                is_bare = not is_tail
            is_alone = first == 0 and last == len(groups) - 1
            yield Stretch(start, group.end, digits, sizes, gaps, is_bare, is_alone)

    def _ends(self, at: int) -> bool:
        return not _touches_word(self.text, at) or EXTENSION.match(self.text, at) is not None

    def _is_tail(self, first: int) -> bool:
        """Whether a group not far before ends a word: then all of it may be one number of another kind."""
        start = self.groups[first].start
        for at in range(first - 1, -1, -1):
            group = self.groups[at]
            if group.start < start - _NEAR:
                return False
            if _touches_word(self.text, group.start - 1):
                return True
        return False

    def cards(self) -> Iterator[Match]:
        """Numbers of payment cards: an issuer's form, Luhn's checksum, and groups as on a card or none."""
        for one in self.stretches:
            if 12 <= len(one.digits) <= 19 and _is_card(self.text, one):
                yield Match(one.start, one.end, "card")


def runs_in(text: str, start: int) -> Iterator[DigitRun]:
    """The runs of which a part lies at or after `start`, with `CONTEXT` characters before it read as well.

    Those with fewer than `LEAST_DIGITS` digits are no number of anything, and left out.
    """
    for run in _RUN.finditer(text, max(0, start - CONTEXT)):
        if run.end() - run.start() < LEAST_DIGITS:
            continue
        groups: list[Group] = []
        before_it = run.start()
        for match in _GROUP.finditer(text, run.start(), run.end()):
            at, end = match.span()
            digits = match[0] if match[0].isascii() else "".join(str(int(c)) for c in match[0])
            groups.append(Group(at, end, digits, text[before_it:at]))
            before_it = end
        yield DigitRun(text, groups)


def is_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def before(text: str, at: int) -> str:
    """What stands before a place, in small letters: where a word can say what follows."""
    return text[max(0, at - CONTEXT) : at].lower()


def _is_card(text: str, one: Stretch) -> bool:
    digits, sizes = one.digits, one.sizes
    if not one.is_bare or len(set(digits)) < 2 or not is_luhn(digits):
        return False
    if len(sizes) > 1 and not _is_card_layout(one):
        return False
    if len(digits) >= 15 or len(sizes) > 1:
        return bool(_CARDS.fullmatch(digits)) or bool(_CARD_WORDS.search(before(text, one.start)))
    # Short ones are as long as article numbers and times: what they are must be said.
    return bool(_CARD_WORDS.search(before(text, one.start)))


def _is_card_layout(one: Stretch) -> bool:
    """Groups as they are printed on cards, or near to it."""
    sizes = one.sizes
    if len(sizes) == 2:
        return sizes == (8, 8) and one.gaps[0] != "."
    is_regular = len(set(sizes[:-1])) == 1 and 3 <= sizes[0] <= 6 and sizes[-1] <= sizes[0]
    return is_regular or sizes in ((4, 6, 5), (4, 6, 4))


def _touches_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and (text[at].isalnum() or text[at] == "_")


def _is_bare(text: str, start: int, end: int) -> bool:
    if start >= 2 and text[start - 1] in _TIES and text[start - 2].isalnum():
        return False
    return not (end + 1 < len(text) and text[end] in _TIES and text[end + 1].isalnum())
