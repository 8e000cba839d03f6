"""Phone numbers: international ones by their plus sign, national ones by their form or by a word before them."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from sidecar.response_formatter.filters.numbers import EXTENSION, DigitRun, Stretch, before
from sidecar.response_formatter.filters.scanner import Match

# Words that announce a phone number: whole, by their beginning, and wherever they stand in the text before.
_WHOLE = frozenset("tel tél mob fax sms bel ring dial mobi nummer numer call".split())  # noqa: SIM905
_BEGINNING = (
    "telef", "teléf", "mobil", "cell", "calling", "whatsapp", "hotline", "reach", "handy", "rufnummer",
    "durchwahl", "portable", "appel", "joindre", "móvil", "celular", "llám", "chiama", "telemóvel", "ligue",
    "komórk", "komork", "zadzwo", "contact", "signal", "viber", "texte",
)  # fmt: skip
_INSIDE = (
    "phone", "text me", "text us", "फ़ोन", "फोन", "मोबाइल", "电话", "電話", "手机", "手機", "携帯", "전화", "тел",
    "звон", "هاتف", "جوال",
)  # fmt: skip
_WORD = re.compile(r"\w+")
ANNOUNCING = (
    rf"\b(?:{'|'.join(sorted(_WHOLE))})(?:[^a-zA-Z]|$)",
    rf"(?:\b|[^a-zA-Z])(?:{'|'.join(_BEGINNING)})",
    "|".join(_INSIDE),
)
_NOT_WORDS = re.compile(
    r"\b(?:order|invoice|ticket|tracking|ref(?:erence)?|sku|part|serial|case|version|build|item|product|isbn|issn|ean"
    r"|upc|model|batch|lot|id|article|artikel|bestell\w*|rechnung\w*|pedido|factura|commande|facture|rfc|doi|account"
    r"|konto\w*|iban|zip|plz|number of|bug|port|size|gtin|asin|po|commit|revision|claim|policy|error|code)"
    r"(?:[ \-]?(?:no|nr|number|num|id|#|№)\b)?\.?[ :#№=\-]{0,4}$"
)
_DATE_LIKE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_SIGNS = "+\uff0b( \xa0"
_SPACES = frozenset((" ", "\xa0", "\u2009", "\u202f"))
_AMERICAN_GAPS = frozenset(
    ("-", ".", "\u2010", "\u2011", " ", "\xa0", "\u2009", "\u202f", ") ", ")", ")-", ")\xa0")
)
_PLUS = "+\uff0b"
_MOST = 15
# So far before a group is looked for its plus sign, which stands before the whole run.
_SIGNS_BEFORE = 4
_MOST_GROUPS = 8


class PhoneBook:
    """Looks for numbers, national ones as they are dialled in `regions`."""

    def __init__(self, regions: Sequence[str]) -> None:
        from sidecar.response_formatter.filters import phone_rules

        self._regions = tuple(regions)
        phone_rules.load(self._regions)

    def find(self, run: DigitRun) -> Iterator[Match]:
        for one in run.stretches:
            if len(one.digits) > _MOST or not (one.said or _may_be_one(run, one)):
                continue
            if (start := self._start(run, one)) is not None:
                extension = EXTENSION.match(run.text, one.end)
                yield Match(start, extension.end() if extension else one.end, "phone")

    def _start(self, run: DigitRun, one: Stretch) -> int | None:
        """Where the number begins, its sign included; None when it is no phone number."""
        text, start = run.text, one.start
        if start and start - run.start < _SIGNS_BEFORE and text[start - 1] in _SIGNS:
            plus = max(text.rfind(sign, max(0, start - 4), start) for sign in _PLUS)
            if plus >= 0 and all(c in _SIGNS for c in text[plus:start]):
                is_alone = not plus or not text[plus - 1].isalnum()
                return plus if is_alone and self._is_international(one) else None
        if start and text[start - 1] == "(" and ")" in "".join(one.gaps):
            start -= 1
        is_announced = one.is_worded and run.is_announced(one, _announces)
        if (one.is_bare or is_announced) and self._is_national(run, one, has_bracket=start < one.start):
            return None if one.said and _NOT_WORDS.search(before(text, start)) else start
        return None

    def _is_international(self, one: Stretch) -> bool:
        return len(one.sizes) <= _MOST_GROUPS and _is_possible(one.digits)

    def _is_national(self, run: DigitRun, one: Stretch, *, has_bracket: bool) -> bool:
        digits, sizes = one.digits, one.sizes
        if len(sizes) > _MOST_GROUPS or len(set(digits)) < 2:
            return False
        is_abroad = digits.startswith("00") and len(digits) >= 11 and len(sizes) > 1 and sizes[0] > 1
        if is_abroad and _is_valid(digits[2:], ()):
            return True
        if self._is_north_american(one, has_bracket=has_bracket):
            # The exchange tells them from other numbers of this form.
            return (
                digits[-7] not in "01"
                or digits[-10:-7] == "555"
                or has_bracket
                or run.is_announced(one, _announces)
            )
        if run.is_announced(one, _announces) and not _has_date(one):
            is_likely = (len(digits) >= 9 and len(set(digits)) > 2) or 1 < len(sizes) <= 6
            return is_likely or _is_valid(digits, self._regions)
        has_form = has_bracket or (digits[0] == "0" and sizes[0] >= 2)
        # A postal code of the United States begins like a number of Germany.
        is_free = (one.is_alone and (sizes != (5, 4) or one.gaps[0] != "-")) or has_bracket
        return is_free and has_form and len(digits) >= 9 and len(sizes) >= 2 and _is_valid(digits, self._regions)

    def _is_north_american(self, one: Stretch, *, has_bracket: bool) -> bool:
        has_prefix = len(one.sizes) == 4 and one.digits[: one.sizes[0]] in ("1", "001")
        area = one.sizes[0] if has_prefix else 0
        if one.sizes[area > 0 :] != (3, 3, 4) or one.digits[area] in "01":
            return False
        if "US" not in self._regions and "CA" not in self._regions:
            return False
        gaps = one.gaps[-2:]
        if all(gap in _SPACES for gap in gaps) and not has_bracket:
            return one.is_alone
        return has_bracket or all(gap in _AMERICAN_GAPS for gap in gaps)


def _may_be_one(run: DigitRun, one: Stretch) -> bool:
    """Whether a stretch that no word announces can be a phone number at all: most cannot."""
    if one.start - run.start < _SIGNS_BEFORE or one.digits[0] == "0":
        return True
    return one.sizes[-3:] == (3, 3, 4) or run.text[one.start - 1] == "("


def _has_date(one: Stretch) -> bool:
    """Whether a day, or a span of years, is among the groups."""
    if _DATE_LIKE.fullmatch(one.digits):
        return True
    at, years = 0, 0
    for place, size in enumerate(one.sizes):
        is_year = size == 4 and one.digits[at : at + 2] in ("19", "20")
        if is_year and one.sizes[place + 1 : place + 3] == (2, 2) and _DATE_LIKE.match(one.digits, at):
            return True
        years += is_year
        at += size
    return years >= 2


def _announces(said: str) -> bool:
    if any(word in said for word in _INSIDE):
        return True
    return any(word in _WHOLE or word.startswith(_BEGINNING) for word in _WORD.findall(said))


@lru_cache(maxsize=4096)
def _is_possible(digits: str) -> bool:
    """Whether a number after a plus sign has a country's code and as many digits as it can have there."""
    from sidecar.response_formatter.filters import phone_rules

    return phone_rules.is_possible(digits)


@lru_cache(maxsize=4096)
def _is_valid(digits: str, regions: tuple[str, ...]) -> bool:
    """Whether a number is given out in one of the regions; without regions, it begins with its country's code."""
    from sidecar.response_formatter.filters import phone_rules

    if not regions:
        return phone_rules.is_valid_abroad(digits)
    return any(phone_rules.is_valid(digits, region) for region in regions)
