"""Which messages fit which subscription, and what becomes of those that do not."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.adapters.nats.client.subscription import Subscription
from sidecar.wire.matching import LOGGED_EVERY_S, Misdelivered, matcher
from sidecar.wire.tokens import TOKEN_CHARACTERS, Tokens

TOKEN = st.sampled_from([b"a", b"b", b"a\x0bb", b"a\n", b"\xff", b"*", b">"])
PATTERN = st.lists(st.sampled_from(["a", "b", "*", ">"]), min_size=1, max_size=5)


def fits(pattern: list[str], subject: list[bytes]) -> bool:
    """The server's rule, token by token."""
    for place, token in enumerate(pattern):
        if token == ">" and place == len(pattern) - 1:
            return len(subject) > place
        if place >= len(subject) or (token != "*" and token.encode() != subject[place]):
            return False
    return len(subject) == len(pattern)


@given(PATTERN, st.lists(TOKEN, min_size=1, max_size=6))
def test_a_subject_fits_as_the_server_has_it(pattern: list[str], subject: list[bytes]) -> None:
    assert (matcher(".".join(pattern))(b".".join(subject)) not in (None, False)) == fits(pattern, subject)


@pytest.mark.parametrize(
    ("pattern", "subject", "does_fit"),
    [
        ("_INBOX.x.*", b"_INBOX.x.1", True),
        ("_INBOX.x.*", b"_INBOX.x.", False),
        ("_INBOX.x.*", b"_INBOX.x.1.2", False),
        ("_INBOX.x.*", b"llm.v1.get.globex.1", False),
        ("_INBOX.x.*", b"_INBOXax.1", False),
        ("$KV.LLM_CANCEL.*.*", b"$KV.LLM_CANCEL.acme.j", True),
        ("$KV.LLM_CANCEL.*.*", b"$KV.LLM_CANCEL.acme.j\n", True),
        ("llm.v1.sys.doorbell.>", b"llm.v1.sys.doorbell", False),
        ("llm.v1.sys.doorbell.>", b"llm.v1.sys.doorbell..", False),
        ("$SRV.PING", b"$SRV.PING", True),
        ("$SRV.PING", b"$SRV.PING.x", False),
    ],
)
def test_examples(pattern: str, subject: bytes, does_fit: bool) -> None:
    assert (matcher(pattern)(subject) not in (None, False)) is does_fit


class Holder:
    def __init__(self) -> None:
        self.now = 0.0
        self.misdelivered = Misdelivered(clock=lambda: self.now)

    def forget(self, subscription: Subscription) -> None:
        """Nothing is held."""


def test_what_does_not_fit_is_dropped_counted_and_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    holder, heard = Holder(), []
    subscription = Subscription(holder, "_INBOX.x.*", "", lambda *message: heard.append(message))
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            subscription.handler(b"llm.v1.get.globex.1\x1b[2J", b"w17", b"", b"forged")
        assert len(caplog.records) == 1
        holder.now += LOGGED_EVERY_S
        subscription.handler(b"other", b"", b"", b"forged")
    assert holder.misdelivered.count == 6
    assert heard == []
    assert [record.message.count("\x1b") for record in caplog.records] == [0, 0]
    assert "llm.v1.get.globex.1\\x1b[2J" in caplog.messages[0]
    subscription.handler(b"_INBOX.x.1", b"", b"", b"own")
    assert [message[3] for message in heard] == [b"own"]


def test_tokens_are_names_and_never_the_same() -> None:
    tokens = Tokens()
    taken = [tokens.take() for _ in range(2000)]
    assert len(set(taken)) == len(taken)
    assert {len(token) for token in taken} == {TOKEN_CHARACTERS}
    assert not set(b" .*>\t\r\n") & set(b"".join(taken))
