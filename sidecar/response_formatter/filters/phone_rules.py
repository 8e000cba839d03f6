"""Whether digits are a phone number, by the metadata of phonenumbers, many thousand times a second.

phonenumbers answers the same for any text; it takes a twentieth of a millisecond for each country, most of it to
find out that what it was given are digits. Here they always are. What is rare and intricate (the code of another
country before the number, prefixes that are rewritten) is left to it, and a test holds both against each other.
"""

import re
from functools import cache
from typing import Any

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

_SHORTEST = 2
_LONGEST_CODE = 3
_KINDS = tuple(
    "premium_rate toll_free shared_cost voip personal_number pager uan voicemail fixed_line mobile".split()  # noqa: SIM905
)


class _Numbering:
    """One country's plan."""

    def __init__(self, metadata: Any) -> None:
        general = metadata.general_desc
        self.code = str(metadata.country_code)
        self._idd = re.compile(metadata.international_prefix) if metadata.international_prefix else None
        prefix = metadata.national_prefix_for_parsing
        self._prefix = re.compile(prefix) if prefix else None
        self._rewrites = bool(metadata.national_prefix_transform_rule)
        self._general = re.compile(f"(?:{general.national_number_pattern})\\Z")
        self._lengths = frozenset(general.possible_length)
        self._local = frozenset(general.possible_length_local_only or ())
        self._longest = max(self._lengths, default=0)
        self.leading = re.compile(metadata.leading_digits) if metadata.leading_digits else None
        self._kinds = _patterns_by_length(metadata)

    def dialled(self, digits: str) -> str | None:
        """The number of what is dialled in the country; None where the library has to tell."""
        if self._idd is not None and self._idd.match(digits) is not None:
            return None
        if digits.startswith(self.code):
            without = self._bare(digits[len(self.code) :])
            if without is None:
                return None
            is_better = self._general.match(digits) is None and self._general.match(without) is not None
            if is_better or len(digits) > self._longest:
                return self.national(without)
        return self.national(digits)

    def national(self, digits: str) -> str | None:
        """The number without the prefix that is dialled before it at home; None where the library has to tell."""
        bare = self._bare(digits)
        if bare is None or bare is digits:
            return bare
        size = len(bare)
        is_of_a_size = (size in self._lengths or size > self._longest) and size not in self._local
        return bare if is_of_a_size else digits

    def _bare(self, digits: str) -> str | None:
        match = self._prefix.match(digits) if self._prefix is not None else None
        if match is None or not match.end():
            return digits
        if self._rewrites:
            return None
        rest = digits[match.end() :]
        return digits if self._general.match(digits) and not self._general.match(rest) else rest

    def is_given_out(self, number: str) -> bool:
        patterns = self._kinds.get(len(number), self._kinds[0])
        return self._general.match(number) is not None and any(pattern.match(number) for pattern in patterns)

    def is_possible(self, number: str) -> bool:
        return len(number) in self._lengths or len(number) in self._local


def _patterns_by_length(metadata: Any) -> dict[int, tuple["re.Pattern[str]", ...]]:
    """Key 0: those of kinds that may have any length."""
    found: dict[int, set[str]] = {0: set()}
    for name in _KINDS:
        kind = getattr(metadata, name)
        if kind is None or not kind.national_number_pattern:
            continue
        for length in kind.possible_length or (0,):
            found.setdefault(length, set()).add(kind.national_number_pattern)
    return {
        length: tuple(re.compile(f"(?:{one})\\Z") for one in sorted(patterns | found[0]))
        for length, patterns in found.items()
    }


@cache
def _numbering(region: str) -> _Numbering:
    return _Numbering(PhoneMetadata.metadata_for_region(region))


@cache
def _regions_of(code: str) -> tuple[str, ...]:
    return tuple(COUNTRY_CODE_TO_REGION_CODE.get(int(code), ()))


def load(regions: tuple[str, ...]) -> None:
    """Read what is needed of the metadata: when a policy is read, not while answers are on their way."""
    for region in regions:
        for one in _regions_of(_numbering(region).code):
            _numbering(one)


def is_valid(digits: str, region: str) -> bool:
    """Whether a number is given out, as it is dialled in a region."""
    plan = _numbering(region)
    number = plan.dialled(digits)
    if number is None or len(number) < _SHORTEST:
        return _asked_is_valid(digits, region)
    regions = _regions_of(plan.code)
    if len(regions) == 1:
        return plan.is_given_out(number)
    for one in regions:
        other = _numbering(one)
        if other.leading is not None:
            if other.leading.match(number):
                return other.is_given_out(number)
        elif other.is_given_out(number):
            return True
    return False


def is_valid_abroad(digits: str) -> bool:
    """Whether a number that begins with a country's code is given out there."""
    return _asked_is_valid(f"+{digits}", None)


def is_possible(digits: str) -> bool:
    """Whether a number after a plus sign has a country's code, and as many digits as it can have there."""
    if digits.startswith("0") or len(digits) <= _SHORTEST:
        return _asked_is_possible(digits)
    for size in range(1, _LONGEST_CODE + 1):
        regions = _regions_of(digits[:size])
        if regions:
            break
    else:
        return False
    if regions[0] == "001":
        return _asked_is_possible(digits)
    plan = _numbering(regions[0])
    number = plan.national(digits[size:])
    if number is None or len(number) < _SHORTEST:
        return _asked_is_possible(digits)
    return plan.is_possible(number)


def _asked_is_valid(digits: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(digits, region))
    except phonenumbers.NumberParseException:
        return False


def _asked_is_possible(digits: str) -> bool:
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(f"+{digits}", None))
    except phonenumbers.NumberParseException:
        return False
