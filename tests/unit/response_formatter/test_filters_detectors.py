# ruff: noqa: E501
"""Single findings that matter, by example: what each filter takes out of a text, and what it must leave."""

import pytest

from sidecar.config.filters import BlocklistOptions, PiiOptions, SanitiseOptions, SecretsOptions
from sidecar.response_formatter.filters.blocklist import BlocklistDetector
from sidecar.response_formatter.filters.pii import PiiDetector
from sidecar.response_formatter.filters.sanitise import sanitised
from sidecar.response_formatter.filters.scanner import Detector, FilterRule, found_in
from sidecar.response_formatter.filters.secrets import SecretDetector

PII = PiiDetector(PiiOptions())
SECRETS = SecretDetector(SecretsOptions())


def shown(text: str, detector: Detector) -> str:
    return found_in(text, (FilterRule("f", "redact", detector),), lambda *_: None)[0]


@pytest.mark.parametrize(
    ("text", "clean", "kinds"),
    [
        ("a\x00b\x1bc\x7fd\x9be", "abcde", {"control": 4}),
        ("tab\tline\nreturn\r", "tab\tline\nreturn\r", {}),
        ("\u202eevil\u202c \u2066x\u2069", "evil x", {"bidi": 4}),
        ("pass\u200bword\u2060\ufeff\u00ad", "password", {"invisible": 4}),
        ("\ud83d\ude00 \ud83d!", "😀 \ufffd!", {"surrogate": 1}),
        ("\ude00", "\ufffd", {"surrogate": 1}),
        ("👩\u200d👩\u200d👧 ❤\ufe0f 👍🏽 🏳\ufe0f\u200d🌈 1\ufe0f\u20e3", "👩\u200d👩\u200d👧 ❤\ufe0f 👍🏽 🏳\ufe0f\u200d🌈 1\ufe0f\u20e3", {}),
        ("می\u200cخواهم क\u094d\u200dष", "می\u200cخواهم क\u094d\u200dष", {}),
        ("ab\u200dcd\u200cef", "abcdef", {"invisible": 2}),
        ("ไทย\u200bภาษา", "ไทย\u200bภาษา", {}),
        ("שלום\u200f!", "שלום\u200f!", {}),
        ("Latin\u200f!", "Latin!", {"invisible": 1}),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", {}),
        ("hi\U000e0068\U000e0069", "hi", {"invisible": 2}),
        ("a\ufe00\ufe01\ufe02", "a\ufe00", {"invisible": 2}),
    ],
)  # fmt: skip
def test_what_the_sanitiser_takes_out_and_what_it_leaves(text: str, clean: str, kinds: dict[str, int]) -> None:
    counts: dict[str, int] = {}
    assert sanitised(text, SanitiseOptions(), counts) == clean
    assert counts == kinds


def test_hidden_characters_can_be_marked_or_kept() -> None:
    counts: dict[str, int] = {}
    options = SanitiseOptions(invisible="mark", bidi="keep", controls="mark")
    assert sanitised("a\u200b\u202e\x07", options, counts) == "a<U+200B>\u202e<U+0007>"
    assert counts == {"invisible": 1, "control": 1}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Mail j.doe+x@mail.example.co.uk!", "Mail [EMAIL]!"),
        ("用户@例子.广告", "[EMAIL]"),
        ("johnny [at] example [dot] com", "[EMAIL]"),
        ("+1 (555) 123-4567 or 555-123-4567", "[PHONE] or [PHONE]"),
        ("call 5551234567 or 555-1234", "call [PHONE] or [PHONE]"),
        ("+49 (0)30 901820, 0049 30 901820", "[PHONE], [PHONE]"),
        ("GB82 WEST 1234 5698 7654 32.", "[IBAN]."),
        ("DE89\xa03704\u202f0044-0532 0130 00", "[IBAN]"),
        ("4111-1111-1111-1111 3782 822463 10005", "[CARD] [CARD]"),
        ("SSN 123-45-6789 and 078-05-1120", "SSN [NATIONAL_ID_US] and [NATIONAL_ID_US]"),
        ("my SSN is 123456789", "my SSN is [NATIONAL_ID_US]"),
        ("NINO QQ 12 34 56 C", "NINO [NATIONAL_ID_GB]"),
        ("12345678Z, X1234567L", "[NATIONAL_ID_ES], [NATIONAL_ID_ES]"),
        ("111.444.777-35", "[NATIONAL_ID_BR]"),
        ("RSSMRA85T10A562S", "[NATIONAL_ID_IT]"),
        ("PESEL 44051401359, BSN 111222333", "PESEL [NATIONAL_ID_PL], BSN [NATIONAL_ID_NL]"),
    ],
)
def test_personal_data_is_taken_out(text: str, clean: str) -> None:
    assert shown(text, PII) == clean


@pytest.mark.parametrize(
    "text",
    [
        "order 123-456-7890", "2024-01-15 10:30", "DE89 3704 0044 0532 0130 01", "4111 1111 1111 1112",
        "PESEL 44051401358", "12345678A", "git@github.com:a/b", "logo@2x.png", "v1.2.3.4", "978-3-16-148410-0",
        "550e8400-e29b-41d4-a716-446655440000", "111222333", "44051401359", "https://jane@example.com/x",
    ],
)  # fmt: skip
def test_what_only_looks_personal_stays(text: str) -> None:
    assert shown(text, PII) == text


def test_allowed_values_stay_and_kinds_can_be_chosen() -> None:
    detector = PiiDetector(PiiOptions(kinds=("email", "ip_address"), allow=("Help@example.com",)))
    text = "help@example.com jane@example.com 10.0.0.1 fe80::1:2:3 +1 555 123 4567"
    assert shown(text, detector) == "help@example.com [EMAIL] [IP_ADDRESS] [IP_ADDRESS] +1 555 123 4567"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("AKIAIOSFODNN7EXAMPLE", "[AWS_ACCESS_KEY]"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [AWS_SECRET_KEY]"),
        ('"password": "hunter2"', '"password": "[GENERIC]"'),
        ("my password is P@ssw0rd!", "my password is [GENERIC]"),
        ("postgres://u:s3cr3t@db/x", "postgres://u:[URL_PASSWORD]@db/x"),
        ("Bearer abcdefghijklmnopqrst1234", "Bearer [BEARER_TOKEN]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\nok", "[PRIVATE_KEY]\nok"),
    ],
)  # fmt: skip
def test_secrets_are_taken_out(text: str, clean: str) -> None:
    assert shown(text, SECRETS) == clean


def test_the_end_of_a_long_token_goes_with_its_beginning() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJ" + "a1B2" * 5_000 + "." + "xY" * 30
    assert shown(f"{token} end", SECRETS) == "[JWT] end"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Project  Bluebird and PROJECT\nbluebird", "[WORD] and [WORD]"),
        ("projects bluebirds", "projects bluebirds"),
        ("STRASSE, Straße, strasse", "[WORD], [WORD], [WORD]"),
        ("cafe\u0301 and café", "[WORD] and [WORD]"),
        ("ticket int-4711!", "ticket [PATTERN]!"),
        ("机密文件", "[WORD]文件"),
    ],
)
def test_listed_words_and_patterns_are_taken_out(text: str, clean: str) -> None:
    words = ("project bluebird", "Straße", "café", "机密")
    options = BlocklistOptions(words=words, patterns=(r"\bINT-\d{2,6}\b",))
    assert shown(text, BlocklistDetector(options)) == clean


def test_a_pattern_matches_no_more_than_it_may() -> None:
    detector = BlocklistDetector(BlocklistOptions(patterns=("a+b",), max_match_chars=10))
    assert shown("aaab " + "a" * 9 + "b", detector) == "[PATTERN] [PATTERN]"
    assert shown("a" * 5_000 + "c", detector) == "a" * 5_000 + "c"
