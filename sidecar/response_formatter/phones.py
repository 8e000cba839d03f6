"""Phone numbers: international ones by their plus sign, national ones by their form or by a word before them."""

import re
from collections.abc import Iterator, Sequence

from sidecar.response_formatter.numbers import Run, Stretch, before
from sidecar.response_formatter.spans import Found

_WORDS = re.compile(
    r"phone|\btel\b|\btel[.:]|\btél|telef|mobil|\bmob\b|\bcell|\bcall|\bfax|whatsapp|\bsms\b|\btext (?:me|us)"
    r"|hotline|\bdial|\breach|\bring\b|handy|\bnummer\b|rufnummer|durchwahl|portable|appel|joindre|móvil|celular|llám|cellul"
    r"|chiama|telemóvel|ligue|\bbel\b|kom[óo]rk|zadzwo|\bnumer\b|फ़ोन|फोन|मोबाइल|电话|電話|手机|手機|携帯|전화|тел|звон|هاتف|جوال|contact"
    r"|signal|viber"
)
_NOT_WORDS = re.compile(
    r"\b(?:order|invoice|ticket|tracking|ref(?:erence)?|sku|part|serial|case|version|build|item|product|isbn|issn|ean"
    r"|upc|model|batch|lot|id|article|artikel|bestell\w*|rechnung\w*|pedido|factura|commande|facture|rfc|doi|account"
    r"|konto\w*|iban|zip|plz|number of|bug|port|size|gtin|asin|po|commit|revision|claim|policy|error|code)"
    r"(?:[ \-]?(?:no|nr|number|num|id|#|№)\b)?\.?[ :#№=\-]{0,4}$"
)
_NORTH_AMERICAN = re.compile(r"1?[2-9]\d{9}")
_DATE_LIKE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_LEADING = re.compile(r"(?:\+|\uff0b|00)?[ \xa0]?\(?[+\uff0b]?[ \xa0]?\Z")
_PLUS = "+\uff0b"
_LEAST, _MOST = 7, 15


class PhoneBook:
    """Looks for numbers, national ones as they are dialled in `regions`."""

    def __init__(self, regions: Sequence[str]) -> None:
        self._regions = regions

    def find(self, text: str, run: Run) -> Iterator[Found]:
        for one in run.stretches:
            if len(one.digits) <= _MOST and (start := self._start(text, one)) is not None:
                yield Found(start, one.end, "phone")

    def _start(self, text: str, one: Stretch) -> int | None:
        """Where the number begins, its sign included; None when it is no phone number."""
        opening = _LEADING.search(text, max(0, one.start - 4), one.start)
        start = opening.start() if opening is not None else one.start
        signs = text[start : one.start]
        if any(plus in signs for plus in _PLUS):
            plus = min(text.find(p, start, one.start) for p in _PLUS if p in signs)
            if plus and text[plus - 1].isalnum():
                return None
            return plus if self._is_international(one) else None
        bracket = text.rfind("(", start, one.start)
        start = bracket if bracket >= 0 else one.start
        said = before(text, start)
        if _NOT_WORDS.search(said) or not one.is_bare:
            return None
        return start if self._is_national(one, said, has_bracket=bracket >= 0) else None

    def _is_international(self, one: Stretch) -> bool:
        import phonenumbers

        digits = one.digits
        if "(0)" in "".join(one.gaps):
            return False
        try:
            number = phonenumbers.parse(f"+{digits}", None)
        except phonenumbers.NumberParseException:
            return False
        return phonenumbers.is_possible_number(number)

    def _is_national(self, one: Stretch, said: str, *, has_bracket: bool) -> bool:
        digits = one.digits
        if digits.startswith("00") and len(digits) >= 11:
            return self._is_valid(f"+{digits[2:]}", None)
        if self._is_north_american(one, has_bracket=has_bracket):
            return True
        if _WORDS.search(said) and not _DATE_LIKE.fullmatch(digits):
            return self._is_valid_here(digits) or (len(digits) >= 9 and len(set(digits)) > 2) or len(one.sizes) > 1
        has_form = has_bracket or (digits[0] == "0" and one.sizes[0] >= 2)
        return len(digits) >= 9 and len(one.sizes) >= 2 and has_form and self._is_valid_here(digits)

    def _is_north_american(self, one: Stretch, *, has_bracket: bool) -> bool:
        if "US" not in self._regions and "CA" not in self._regions:
            return False
        sizes = one.sizes[1:] if one.sizes[0] == 1 and one.digits[0] == "1" else one.sizes
        if sizes != (3, 3, 4) or not _NORTH_AMERICAN.fullmatch(one.digits):
            return False
        gaps = one.gaps[-2:]
        return has_bracket or all(
            gap in ("-", ".", "\u2010", "\u2011", " ", "\xa0", ") ", ")", ")-") for gap in gaps
        )

    def _is_valid_here(self, digits: str) -> bool:
        return any(self._is_valid(digits, region) for region in self._regions)

    def _is_valid(self, digits: str, region: str | None) -> bool:
        import phonenumbers

        try:
            return phonenumbers.is_valid_number(phonenumbers.parse(digits, region))
        except phonenumbers.NumberParseException:
            return False
