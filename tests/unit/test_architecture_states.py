"""The documented table of states is the one in code."""

import re
from pathlib import Path

from sidecar.job_manager.transitions import FOLLOWS

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_documented_states_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text[text.index("<!-- states:") :]
    rows = dict(re.findall(r"^\| (\(none\)|\w+) \| ([a-z, ]+) \|$", table, re.MULTILINE))
    rows.pop("from", None)
    documented = {None if name == "(none)" else name: set(to.split(", ")) for name, to in rows.items()}
    assert documented == {name: set(to) for name, to in FOLLOWS.items() if to}
