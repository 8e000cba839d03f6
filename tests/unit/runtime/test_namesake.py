"""A process is taken for ended only where its name says that it ran here, and nobody has its id now."""

import os

import pytest

from sidecar.runtime.namesake import has_ended_here
from tests.support.process import ended_pid

OWN = f"box-1-{os.getpid()}"


@pytest.fixture(scope="module")
def ended() -> int:
    return ended_pid()


def test_a_process_of_this_machine_that_has_ended(ended: int) -> None:
    assert has_ended_here(f"box-1-{ended}", own=OWN)


def test_what_cannot_be_told_has_not(ended: int) -> None:
    for name in (
        f"box-2-{ended}",
        f"box-1-{os.getppid()}",
        "box-1-",
        "box-1-x",
        "box-1-٣",
        f"{ended}",
        "box-1-0",
        "",
    ):
        assert not has_ended_here(name, own=OWN), name
    assert not has_ended_here(f"box-1-{10**30}", own=OWN)
    for own in ("given", f"box-1-{ended}", f"-{os.getpid()}"):
        assert not has_ended_here(f"box-1-{ended}", own=own), own
