"""Everyday forms of what filters look for, and of what looks like it: each alone in its line."""

from itertools import pairwise

import pytest

from sidecar.config.filters import BlocklistOptions, PiiOptions, SanitiseOptions, SecretsOptions
from sidecar.response_formatter.filters.blocklist import BlocklistDetector
from sidecar.response_formatter.filters.pii import PiiDetector
from sidecar.response_formatter.filters.scanner import FilterRule
from sidecar.response_formatter.filters.secrets import SecretDetector
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, OutgoingText

PII = FilterRule("pii", "redact", PiiDetector(PiiOptions()))
SECRETS = FilterRule("secrets", "redact", SecretDetector(SecretsOptions()))


def shown(rule: FilterRule, text: str) -> str:
    channel = OutgoingText(Chain(SanitiseOptions(), (rule,)), FilterCounts())
    return "".join(piece for _, piece in (*channel.feed(0, text), *channel.end()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jane@corp.rs", "[EMAIL]"),
        ("jane@corp.py", "[EMAIL]"),
        ("jane@corp.md", "[EMAIL]"),
        ("https://example.org?email=jane@corp.com", "https://example.org?email=[EMAIL]"),
        ("https://example.org/u?a=b&email=jane@corp.com&x=1", "https://example.org/u?a=b&email=[EMAIL]&x=1"),
        ("Card:4111111111111111", "Card:[CARD]"),
        ("card no.4111 1111 1111 1111", "card no.[CARD]"),
        ("card-4111111111111111", "card-[CARD]"),
        ("card_4111111111111111", "card_[CARD]"),
        ("/cards/4111111111111111/edit", "/cards/[CARD]/edit"),
        ("_4111 1111 1111 1111_", "_[CARD]_"),
        ("paid by 4111111111111111.Thanks", "paid by [CARD].Thanks"),
        ("Phone:4155552671", "Phone:[PHONE]"),
        ("phone_4155552671", "phone_[PHONE]"),
        ("IBAN:DE89370400440532013000", "IBAN:[IBAN]"),
        ("ssn=123-45-6789", "ssn=[NATIONAL_ID_US]"),
    ],
)
def test_personal_data_in_everyday_forms(text: str, expected: str) -> None:
    assert shown(PII, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "scp user@host.example.com:/var/www",
        "ssh deploy@db1.example.com",
        "rsync -avz ./dist/ deploy@web.example.com:/srv/www",
        "ssh -i key.pem ec2-user@ec2-1-2-3-4.compute.amazonaws.com",
        "git clone git@github.com:org/repo",
        "icon@2x.png",
        "j***@example.com",
        "npm i @types/node@20.1.0",
        "part 123-056-7890",
        "id: 1234567890123456",
        "3.14159265358979",
        "550e8400-e29b-41d4-a716-446655440000",
    ],
)
def test_what_only_looks_like_personal_data(text: str) -> None:
    assert shown(PII, text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password: $ecret123", "$ecret123"),
        ("password=%Gh7kQ2!z", "%Gh7kQ2!z"),
        ("password={x9Kd!2qa}", "{x9Kd!2qa"),
        ("password: myExample123", "myExample123"),
        ("password: your1stPass!", "your1stPass!"),
        ("<password>hunter2!x</password>", "hunter2!x"),
        ("<db:password>Xy12abcd</db:password>", "Xy12abcd"),
        ("curl -u admin:s3cr3tPass https://x.org", "s3cr3tPass"),
        ("curl --user bob:hunter2 http://x", "hunter2"),
        ("mysql -u root -pS3cret! db", "S3cret!"),
        ("tool --password hunter22", "hunter22"),
        ("PGPASSWORD=abc123def psql", "abc123def"),
        ("Passwort: Geheim123!", "Geheim123!"),
        ("sshpass -p 'abc12345' ssh x", "abc12345"),
        ("machine x.org login me password hunter2", "hunter2"),
    ],
)
def test_secrets_in_everyday_forms(text: str, value: str) -> None:
    assert shown(SECRETS, text) == text.replace(value, "[GENERIC]")


@pytest.mark.parametrize(
    "text",
    [
        "secret_name = prod/db/credentials",
        "password = ${DB_PASSWORD}",
        "password: $PASSWORD",
        "password = os.environ['PW1']",
        "password: <your-password1>",
        "API_KEY=<your-api-key>",
        "password: ********",
        "secret_arn = arn:aws:secretsmanager:x",
        "password={{ vault_password1 }}",
        "api_key = 'YOUR_API_KEY'",
        "secretName: my-app-tls-2024",
        "docker run -u 1000:1000 x",
        "chown -u www-data:www-data2 x",
        "token_expiry = 3600seconds",
        "tool --token $TOKEN",
        "password_file=/run/secrets/pw1",
    ],
)
def test_what_only_looks_like_a_secret(text: str) -> None:
    assert shown(SECRETS, text) == text


@pytest.mark.parametrize(
    ("pattern", "matches"), [("[a-z]+", 782), ("(a?){100}a{100}", 781), ("[a-z]{2}", 50_000), ("x.*y", 0)]
)
def test_a_pattern_matches_behind_its_last_match_however_long_the_word(pattern: str, matches: int) -> None:
    (finder,) = BlocklistDetector(BlocklistOptions(patterns=(pattern,))).disjoint
    found = list(finder("a" * 100_000, 0))
    assert len(found) == matches
    assert all(after.start >= before.end for before, after in pairwise(found))
    rule = FilterRule("words", "redact", BlocklistDetector(BlocklistOptions(patterns=(pattern,))))
    assert shown(rule, "a" * 1_000) == ("[PATTERN]" if matches else "a" * 1_000)


@pytest.mark.parametrize("pattern", ["[a-z]{2}", "[a-z]+", "(a?){20}a{20}", "a.{3}"])
@pytest.mark.parametrize("action", ["redact", "flag"])
def test_a_pattern_finds_the_same_wherever_a_text_is_cut(pattern: str, action: str) -> None:
    rule = FilterRule("words", action, BlocklistDetector(BlocklistOptions(patterns=(pattern,), max_match_chars=9)))  # type: ignore[arg-type]
    text = "abcdefg aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa **bb**b &#97;a " * 4
    told = []
    for size in (len(text), 1, 2, 7):
        counts = FilterCounts()
        channel = OutgoingText(Chain(SanitiseOptions(), (rule,)), counts)
        parts = [part for at in range(0, len(text), size) for part in channel.feed(0, text[at : at + size])]
        told.append(("".join(piece for _, piece in (*parts, *channel.end())), counts.found_so_far()))
    assert told.count(told[0]) == 4
