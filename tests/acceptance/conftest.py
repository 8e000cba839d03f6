"""Fixtures of tests that run real processes."""

from collections.abc import Iterator

import pytest

from tests.support.demo import Demo, running_demo


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """A demo that stays up for all tests that ask for it; each uses tenants and job ids of its own."""
    with running_demo() as up:
        yield up
