"""Phone numbers by our own reading of the metadata, held against the library that it belongs to."""

import random

import phonenumbers
import pytest

from sidecar.response_formatter.filters import phone_rules

HOW_MANY = 1_500
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "BR", "PL", "IN", "AR", "MX", "JP", "CH", "AU", "VA", "KZ")


def examples() -> list[tuple[str, str]]:
    """A calling code and a number of each kind that each country gives out."""
    found = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in (0, 1, 3):
            number = phonenumbers.example_number_for_type(region, kind)
            if number is not None:
                national = phonenumbers.national_significant_number(number)
                found.append((str(number.country_code), national))
    return found


def numbers(seed: int) -> list[str]:
    """Real ones with digits changed, with prefixes before them, right and wrong; and digits at random."""
    chance, known, made = random.Random(seed), examples(), []
    for _ in range(HOW_MANY):
        code, national = chance.choice(known)
        changed = national[:-2] + f"{chance.randrange(100):02}"
        prefix = chance.choice(("", "0", "00" + code, code, "1", "8", "15"))
        made.append((prefix + changed)[:15])
        made.append("".join(chance.choice("0123456789") for _ in range(chance.randrange(7, 16))))
    return made


def is_valid(digits: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(digits, region))
    except phonenumbers.NumberParseException:
        return False


@pytest.mark.parametrize("region", REGIONS)
def test_a_number_is_given_out_where_the_library_says_so(region: str) -> None:
    for digits in numbers(seed=len(region) + ord(region[0])):
        assert phone_rules.is_valid(digits, region) == is_valid(digits, region), digits


def test_a_number_after_a_plus_is_possible_where_the_library_says_so() -> None:
    for digits in numbers(seed=7):
        try:
            said = phonenumbers.is_possible_number(phonenumbers.parse(f"+{digits}", None))
        except phonenumbers.NumberParseException:
            said = False
        assert phone_rules.is_possible(digits) == said, digits
