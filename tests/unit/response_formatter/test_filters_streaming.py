# ruff: noqa: E501
"""A text gives the same in whatever pieces it comes: the sanitiser, each filter, and all of them together."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.filters import BlocklistOptions, PiiOptions, SanitiseOptions, SecretsOptions
from sidecar.models.call import ModelDelta
from sidecar.models.filtering import FilterContext, Filtered
from sidecar.response_formatter.filters.blocklist import BlocklistDetector
from sidecar.response_formatter.filters.pii import PiiDetector
from sidecar.response_formatter.filters.sanitise import Sanitiser, sanitised
from sidecar.response_formatter.filters.scanner import FilterRule
from sidecar.response_formatter.filters.secrets import SecretDetector
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, Judge, OutgoingText, StreamFilter
from tests.corpus.generate import corpus

BLOCKLIST = BlocklistOptions(
    words=("project bluebird", "Straße", "qux"), patterns=(r"\bINT-[0-9]{2,6}\b", "fo+bar")
)
RULES = {
    "pii": FilterRule(
        "pii",
        "redact",
        PiiDetector(PiiOptions(kinds=("email", "phone", "iban", "card", "national_id", "ip_address"))),
    ),
    "secrets": FilterRule("secrets", "redact", SecretDetector(SecretsOptions())),
    "blocklist": FilterRule("blocklist", "redact", BlocklistDetector(BLOCKLIST)),
    "flagged": FilterRule("flagged", "flag", PiiDetector(PiiOptions())),
}
CHAINS = {
    "sanitiser": (),
    "pii": ("pii",),
    "secrets": ("secrets",),
    "blocklist": ("blocklist",),
    "all": ("pii", "secrets", "blocklist", "flagged"),
}
TEXTS = [case.text for case in corpus()]
HIDDEN = (
    "\u200b",
    "\u202e",
    "\x07",
    "\ud83d",
    "\ude00",
    "\u200d",
    "\ufeff",
    "👩\u200d💻",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e007f",
)
JOINTS = (" ", "", "\n", ", ", "-", ": ", "1", "a", "\xa0", *HIDDEN)
# Pieces that detectors care about, so that random texts come near to what they look for.
ATOMS = (
    "a", "Z", "7", "42", " ", "\n", ".", "-", "@", "+", "(", ")", ":", "=", "/", "_", "example.com", "john", "4111",
    "1111 1111 1111", "DE89 3704 0044 0532 0130 00", "AKIAIOSFODNN7EXAMPLE", "password", "eyJhbGciOiJIUzI1NiJ9", "ghp_",
    "x" * 40, "0" * 9, "-----BEGIN RSA PRIVATE KEY-----\n", "-----END RSA PRIVATE KEY-----", "MIIEpAIBAAKCAQEA7bq3",
    "123-45-6789", "SSN ", "project", "bluebird", "INT-", "fooobar", "straSSe", "qux", "sk-ant-api03-", "tel ",
    "12345678Z", "RSSMRA85T10A562S", "secret", "https://u:", "[at]", "(at)", "[dot]", "johnny", "example", "!", ";", ",", "de89", "gb82 west",
    "card", "Bearer ", "aws_secret_access_key=", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "\\n", "\u202f", "x123", " ext. 5", "1 2 3 ", "12/26", "555 123 4567", "(0)",
    "0041", "(555) ", "77 ", "Visa ", "+49 30 ", "fe80::", "10.0.0.1", *HIDDEN,
    "&#64;", "&#x40", "&amp;", "&commat;", "%40", "%C3%A9", "%E2%80%8B", "%4", "\\@", "\\u0040", "\\x4", "**", "_", "~~", "`", "***",
    "<b>", "</em>", "<wbr", "<!-- x", "-->", "\u0301", "\ufe0f", "\u05b4", "\u180b", "ﬁ", "½", "²", "４", "é", "＠", "…",
)  # fmt: skip


def through(chain: Chain, pieces: Iterable[str]) -> tuple[str, tuple[object, ...]]:
    tally = FilterCounts()
    channel = OutgoingText(chain, tally)
    shown = [part for piece in pieces for part in channel.feed(0, piece)]
    shown += channel.end()
    return "".join(text for _, text in shown), tally.reports(chain.sanitise)


def cut(text: str, places: Iterable[int]) -> list[str]:
    marks = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[a:b] for a, b in pairwise(marks)]


def chain_of(name: str) -> Chain:
    return Chain(SanitiseOptions(), tuple(RULES[rule] for rule in CHAINS[name]))


@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=60, deadline=None)
@given(
    picked=st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(JOINTS)), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 10_000), max_size=30),
)
def test_texts_of_the_corpus_come_out_the_same_however_they_are_cut(
    name: str, picked: list[tuple[str, str]], places: list[int]
) -> None:
    text = "".join(text + joint for text, joint in picked)
    assert through(chain_of(name), cut(text, places)) == through(chain_of(name), [text])


@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=60, deadline=None)
@given(
    atoms=st.lists(st.sampled_from(ATOMS), max_size=60),
    places=st.lists(st.integers(0, 10_000), max_size=40),
)
def test_texts_near_to_what_is_looked_for_come_out_the_same_however_they_are_cut(
    name: str, atoms: list[str], places: list[int]
) -> None:
    text = "".join(atoms)
    assert through(chain_of(name), cut(text, places)) == through(chain_of(name), [text])


@pytest.mark.parametrize("name", CHAINS)
def test_every_text_of_the_corpus_comes_out_the_same_character_by_character(name: str) -> None:
    chain = chain_of(name)
    for text in TEXTS:
        assert through(chain, text) == through(chain, [text])


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(
        alphabet=st.sampled_from(
            [*"ab \n", *"".join(HIDDEN), "\u0645", "\u05d0", "\u0e01", "\ufe0f", "\U000e0067"]
        )
    ),
    places=st.lists(st.integers(0, 1_000), max_size=20),
)
def test_hidden_characters_are_seen_however_the_text_is_cut(text: str, places: list[int]) -> None:
    options = SanitiseOptions()
    whole: dict[str, int] = {}
    parts: dict[str, int] = {}
    sanitiser = Sanitiser(options, parts)
    shown = "".join(sanitiser.feed(piece) for piece in cut(text, places)) + sanitiser.end()
    assert shown == sanitised(text, options, whole)
    assert parts == whole
    shown.encode()


@pytest.mark.parametrize("name", ["pii", "secrets", "all"])
def test_what_is_held_back_is_bounded_whatever_comes(name: str) -> None:
    for text in ("a" * 3_000, "1 " * 1_000, "A1-" * 700, "eyJ" + "a" * 3_000, "x@" * 700):
        tally = FilterCounts()
        channel = OutgoingText(chain_of(name), tally)
        worst = 0
        for piece in cut(text, range(0, len(text), 7)):
            channel.feed(0, piece)
            assert channel._scanner is not None
            worst = max(worst, channel._scanner.held)
        assert worst <= 640 + 96 + 7


def by_block(chain: Chain, pieces: Iterable[tuple[int, str]]) -> dict[int, str]:
    channel = OutgoingText(chain, FilterCounts())
    shown: dict[int, str] = {}
    for index, text in (*(part for at, piece in pieces for part in channel.feed(at, piece)), *channel.end()):
        shown[index] = shown.get(index, "") + text
    return shown


@settings(max_examples=100, deadline=None)
@given(
    atoms=st.lists(st.sampled_from(ATOMS), max_size=40),
    blocks=st.lists(st.integers(0, 1_000), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 1_000), max_size=30),
)
def test_each_block_keeps_its_part_however_it_is_cut(
    atoms: list[str], blocks: list[int], places: list[int]
) -> None:
    chain = chain_of("all")
    wholes = list(enumerate(cut("".join(atoms), blocks)))
    pieces = [(at, piece) for at, whole in wholes for piece in cut(whole, places)]
    assert by_block(chain, pieces) == by_block(chain, wholes)


class Vowels:
    """A filter that is asked, and answers by each segment alone."""

    async def apply(self, text: str, context: FilterContext) -> Filtered:
        shown = text.replace("a", "*")
        return Filtered(text=shown, kinds={"vowel": text.count("a")} if shown != text else {})


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="ab \n", max_size=400),
    places=st.lists(st.integers(0, 1_000), max_size=30),
    segment=st.sampled_from([None, 20, 100]),
)
async def test_segments_are_the_same_however_the_text_is_cut(
    text: str, places: list[int], segment: int | None
) -> None:
    chain = Chain(SanitiseOptions(), judges=(Judge("vowels", "redact", Vowels(), segment),))
    context = FilterContext(tenant="acme", job="job1", job_class="batch")
    shown = []
    for pieces in ([text], cut(text, places)):
        gate = StreamFilter(chain, lambda _: context)
        deltas = []
        for piece in pieces:
            assert not gate.take(ModelDelta(index=0, text=piece))
            deltas += await gate.settle()
        deltas += await gate.finish()
        shown.append(("".join(delta.text or "" for delta in deltas), gate.tally.reports(chain.sanitise)))
    assert shown[0] == shown[1]
    assert shown[0][0] == text.replace("a", "*")
