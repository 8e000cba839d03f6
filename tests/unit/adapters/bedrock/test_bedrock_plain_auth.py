"""Keys that stand in the environment are what botocore's chain would find there, without importing it."""

from typing import Any

import pytest
from botocore.credentials import EnvProvider
from botocore.exceptions import PartialCredentialsError
from botocore.utils import get_token_from_environment
from hypothesis import given
from hypothesis import strategies as st

from sidecar.adapters.bedrock.credentials import Bearer, plain_auth
from sidecar.adapters.bedrock.sigv4 import Keys

NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
ENVIRONMENTS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", "one", "two"]))


@given(ENVIRONMENTS)
def test_plain_keys_are_those_that_botocore_finds(environment: dict[str, str]) -> None:
    found = plain_auth(environment, has_profile=False)
    try:
        theirs: Any = EnvProvider(environ=environment).load()
    except PartialCredentialsError:
        theirs = None
    if theirs is None:
        assert found is None, "the chain goes on, or says what is missing"
    else:
        assert found == Keys(theirs.access_key, theirs.secret_key, theirs.token)


def test_a_bearer_token_is_the_one_that_botocore_takes() -> None:
    environment = {"AWS_BEARER_TOKEN_BEDROCK": "t", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
    assert plain_auth(environment, has_profile=True) == Bearer("t")
    assert get_token_from_environment("bedrock", environment) == "t"


@pytest.mark.parametrize(
    ("more", "has_profile"), [({}, True), ({"AWS_CREDENTIAL_EXPIRATION": "2027-01-01T00:00:00Z"}, False)]
)
def test_a_profile_and_keys_that_expire_are_left_to_the_chain(more: dict[str, str], has_profile: bool) -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", **more}
    assert plain_auth(environment, has_profile=has_profile) is None
