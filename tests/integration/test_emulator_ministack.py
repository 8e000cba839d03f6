"""The same happy path against the emulator and against ministack, which others wrote."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.bedrock_checks import HAPPY_PATH
from tests.support.emulator import make_boto3, spawn_emulator
from tests.support.ministack import MinistackUnavailable, running_ministack


@pytest.fixture(scope="module")
def ministack_url() -> Iterator[str]:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(running_ministack())
        except MinistackUnavailable as e:
            pytest.skip(str(e))
        yield url


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    with spawn_emulator() as process:
        yield process.url


@pytest.mark.parametrize("check", HAPPY_PATH, ids=lambda check: check.__name__)
@pytest.mark.parametrize("server", ["emulator", "ministack"])
def test_both_take_the_happy_path(server: str, check: Any, request: pytest.FixtureRequest) -> None:
    client = make_boto3(request.getfixturevalue(f"{server}_url"))
    try:
        check(client)
    finally:
        client.close()


@pytest.mark.parametrize("server", ["emulator", "ministack"])
def test_both_list_models(server: str, request: pytest.FixtureRequest) -> None:
    client = make_boto3(request.getfixturevalue(f"{server}_url"), service="bedrock")
    try:
        models = [model["modelId"] for model in client.list_foundation_models()["modelSummaries"]]
    finally:
        client.close()
    assert any(model.startswith("amazon.nova") for model in models)
