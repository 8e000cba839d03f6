"""Runs of digits as people write them, in groups with spaces, hyphens or dots between; and cards among them."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

from sidecar.response_formatter.filters.candidates import CONTEXT, Announcer, run_places
from sidecar.response_formatter.filters.scanner import Match

MOST_DIGITS = 19
LEAST_DIGITS = 7
_MOST_GROUPS = 8
_NEAR = 48
# So many groups so near before: the inside of a list, where each stretch would have to be looked at in vain.
_MOST_BEFORE = 12

_GROUP = re.compile(r"\d+")
_TIES = "-./_:"
# Between two groups, which are digits: a single sign ties them.
_TIED_GAPS = frozenset("-./")
_HEX = re.compile(r"(?<![^\W_])[0-9a-fA-F]{1,4}:\Z")
_WORD_BEFORE = re.compile(r"(?<![^\W_])[^\W\d_]{2,16}[\-./_:]\Z")
# The rest of a path, or the end of a sentence without a space behind it.
_WORD_AFTER = re.compile(r"/[^\W\d_]{2}|[.:_][^\W\d_]{3}")
_LETTER = re.compile(r"[^\W\d_]")
_SHORTEST_CARD = 12
_DOUBLED = {"0": 0, "1": 2, "2": 4, "3": 6, "4": 8, "5": 1, "6": 3, "7": 5, "8": 7, "9": 9}

# Issuers' numbers by ISO/IEC 7812: first digits and lengths, from the networks' published ranges.
_CARDS = re.compile(
    r"(?:4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}(?:\d{2})?|6(?:011|5\d\d|4[4-9]\d)\d{12}(?:\d{3})?|35(?:2[89]|[3-8]\d)\d{12}(?:\d{3})?"
    r"|62\d{14,17}|(?:5018|5020|5038|56\d\d|57\d\d|58\d\d|6304|6759|676[1-3])\d{8,15}|(?:60|65|81|82|508)\d{13,14})"
)
_CARD_WORDS = re.compile(
    r"(?<![a-z])(?:cards?|card_?(?:no|num|number)|cc|ccn|pan|payment)(?![a-z])|karte|tarjeta|\bcarte|\bcarta\b"
    r"|cart[ãa]o|kaart|\bkart|visa|master|maestro|amex|american exp|discover|diners|\bjcb\b|\bcredit\b|\bdebit\b"
    r"|карт|卡|कार्ड|カード|카드"
)
CARD_WORDS = _CARD_WORDS.pattern.replace("(?<![a-z])", "").replace("(?![a-z])", "")
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
    is_worded: bool
    """Whether all that ties it is a word before it, which may say what it is."""
    is_alone: bool
    """Whether no other group of digits stands next to it, as in a list of numbers."""
    said: str
    """What stands before it, in small letters; empty where there is no letter."""


class DigitRun:
    """Groups of digits close enough to be one number.

    Between them are signs and spaces, never letters: only the first group can follow a word, and only the last can
    go over into one.
    """

    def __init__(self, text: str, groups: list[Group], firsts: frozenset[int] | None = None) -> None:
        """`firsts`: where in the text a number can begin; None for at any group."""
        self.text = text
        self._firsts = firsts
        self.groups = groups
        self._announced: dict[int, bool] = {}

    @property
    def start(self) -> int:
        return self.groups[0].start

    def is_announced(self, one: Stretch, announces: Callable[[str], bool]) -> bool:
        """Whether what stands before a stretch says what follows; asked once a place."""
        if not one.said:
            return False
        known = self._announced.get(one.start)
        if known is None:
            known = self._announced[one.start] = announces(one.said)
        return known

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        return tuple(self._all())

    def _all(self) -> Iterator[Stretch]:
        groups, text, begin = self.groups, self.text, self.start
        follows_word = _touches_word(text, begin - 1)
        # Beyond it, all that is near before are the run's own digits.
        said_until = begin + CONTEXT if _LETTER.search(text, max(0, begin - CONTEXT), begin) else begin
        tied = [_is_tied_before(text, begin), *(group.gap in _TIED_GAPS for group in groups[1:])]
        tied.append(_is_tied_after(text, groups[-1].end))
        is_worded = tied[0] and _is_tied_to_word(text, begin)
        near = 0
        for first in range(follows_word, len(groups)):
            start = groups[first].start
            while groups[near].start < start - _NEAR:
                near += 1
            if first - near >= _MOST_BEFORE or (self._firsts is not None and start not in self._firsts):
                continue
            said = before(text, start) if start < said_until else ""
            # Not far behind a group that ends a word: all of it may be one number of another kind.
            is_free = not tied[first] and not (follows_word and begin >= start - _NEAR)
            yield from self._from(first, tied, said, is_free=is_free, is_worded=is_worded and first == 0)

    def _from(
        self, first: int, tied: list[bool], said: str, *, is_free: bool, is_worded: bool
    ) -> Iterator[Stretch]:
        """Those that begin with a group."""
        groups, size = self.groups, len(self.groups)
        start, digits, sizes = groups[first].start, "", ()  # type: int, str, tuple[int, ...]
        for last in range(first, min(size, first + _MOST_GROUPS)):
            group = groups[last]
            digits += group.digits
            if len(digits) > MOST_DIGITS:
                break
            sizes += (len(group.digits),)
            if len(digits) < LEAST_DIGITS or (last == size - 1 and not self._ends(group.end)):
                continue
            gaps = tuple([group.gap for group in groups[first + 1 : last + 1]])
            is_bare = is_free and not tied[last + 1]
            is_alone = first == 0 and last == size - 1
            is_named = is_worded and not tied[last + 1]
            yield Stretch(start, group.end, digits, sizes, gaps, is_bare, is_named, is_alone, said)

    def _ends(self, at: int) -> bool:
        return not _touches_word(self.text, at) or EXTENSION.match(self.text, at) is not None

    def cards(self) -> Iterator[Match]:
        """Numbers of payment cards: an issuer's form, Luhn's checksum, and groups as on a card or none."""
        for one in self.stretches:
            if (one.is_bare or one.is_worded) and len(one.digits) >= _SHORTEST_CARD and _is_card(one):
                yield Match(one.start, one.end, "card")


def runs_in(text: str, start: int, announcer: Announcer) -> Iterator[DigitRun]:
    """The runs of which a part lies at or after `start`, with `CONTEXT` characters before it read as well.

    Those in which no number can begin, and those with fewer than `LEAST_DIGITS` digits, are left out.
    """
    for place in run_places(text, start, announcer):
        if place.end - place.start < LEAST_DIGITS:
            continue
        groups: list[Group] = []
        before_it = place.start
        for match in _GROUP.finditer(text, place.start, place.end):
            at, end = match.span()
            digits = match[0] if match[0].isascii() else "".join(str(int(c)) for c in match[0])
            groups.append(Group(at, end, digits, text[before_it:at]))
            before_it = end
        yield DigitRun(text, groups, place.firsts)


def is_luhn(digits: str) -> bool:
    return (sum(map(int, digits[-1::-2])) + sum([_DOUBLED[digit] for digit in digits[-2::-2]])) % 10 == 0


def before(text: str, at: int) -> str:
    """What stands before a place, in small letters: where a word can say what follows."""
    return text[max(0, at - CONTEXT) : at].lower()


def _is_card(one: Stretch) -> bool:
    digits, sizes = one.digits, one.sizes
    if len(sizes) > 1 and not _is_card_layout(one):
        return False
    # Short ones are as long as article numbers and times: what they are must be said.
    is_known = one.is_bare and (len(digits) >= 15 or len(sizes) > 1) and _CARDS.fullmatch(digits)
    if not is_known and not (one.said and _CARD_WORDS.search(one.said)):
        return False
    return len(set(digits)) > 1 and is_luhn(digits)


def _is_card_layout(one: Stretch) -> bool:
    """Groups as they are printed on cards, or near to it."""
    sizes = one.sizes
    if len(sizes) == 2:
        return sizes == (8, 8) and one.gaps[0] != "."
    is_regular = len(set(sizes[:-1])) == 1 and 3 <= sizes[0] <= 6 and sizes[-1] <= sizes[0]
    return is_regular or sizes in ((4, 6, 5), (4, 6, 4))


def _touches_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and text[at].isalnum()


def _is_tied_before(text: str, start: int) -> bool:
    """Whether a sign ties it to something before it. A name with a colon behind it only says what it is."""
    if start < 2 or text[start - 1] not in _TIES or not text[start - 2].isalnum():
        return False
    return (
        text[start - 1] != ":"
        or text[start - 2].isdigit()
        or _HEX.search(text, max(0, start - 7), start) is not None
    )


def _is_tied_to_word(text: str, start: int) -> bool:
    """Whether what ties it is a whole word: `card-4111`, `/cards/4111`, `no.4111`, `card_4111`."""
    return _WORD_BEFORE.search(text, max(0, start - 24), start) is not None


def _is_tied_after(text: str, end: int) -> bool:
    if end + 1 >= len(text) or text[end] not in _TIES or not text[end + 1].isalnum():
        return False
    return _WORD_AFTER.match(text, end) is None
