"""Whose words a stored message is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.authors import is_acknowledgement, is_aimed, is_lease
from tests.support.garbage import ACKNOWLEDGEMENTS, GARBAGE

OTHERS = {name: payload for name, payload in GARBAGE.items() if name not in ACKNOWLEDGEMENTS}


@pytest.mark.parametrize("payload", ACKNOWLEDGEMENTS.values(), ids=ACKNOWLEDGEMENTS)
def test_jetstreams_words_are_known(payload: bytes) -> None:
    assert is_acknowledgement(payload)
    assert is_aimed(payload, {})
    assert not is_aimed(payload, {"Nats-Expected-Last-Subject-Sequence": "0"})


@pytest.mark.parametrize("payload", OTHERS.values(), ids=OTHERS)
def test_all_else_is_somebodys_own(payload: bytes) -> None:
    assert not is_acknowledgement(payload)


@pytest.mark.parametrize(
    "payload", [b'{"stream": 1, "seq": 1}', b'{"stream": "LLM_REQ"}', b'{"seq": 1}', b'{"error": "x"}', b"enough"]
)
def test_a_likeness_is_not_enough(payload: bytes) -> None:
    assert not is_acknowledgement(payload)


@given(st.binary(max_size=100), st.dictionaries(st.text(max_size=10), st.text(max_size=20)))
def test_any_bytes_are_judged(payload: bytes, headers: dict[str, str]) -> None:
    assert not is_acknowledgement(payload)
    assert not is_lease(payload, headers)


@pytest.mark.parametrize(
    ("payload", "headers", "expected"),
    [
        (b"host-1-ab12", {"Nats-TTL": "5"}, True),
        (b"host-1-ab12", {}, False),
        (b"host-1-ab12", {"Nats-TTL": "0"}, False),
        (b"host-1-ab12", {"Nats-TTL": "9" * 40}, False),
        (b"host-1-ab12", {"Nats-TTL": "never"}, False),
        (b"host-1-ab12", {"Nats-TTL": "\u0665"}, False),
        (b"", {"Nats-TTL": "5"}, False),
        (b"a" * 65, {"Nats-TTL": "5"}, False),
        (b'{"stream":"LLM_REQ","seq":1}', {"Nats-TTL": "5"}, False),
    ],
)
def test_a_lease_is_a_name_with_an_end(payload: bytes, headers: dict[str, str], expected: bool) -> None:
    assert is_lease(payload, headers) is expected
