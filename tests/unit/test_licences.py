"""The page of licences follows the lock."""

from pathlib import Path
from typing import Any

import pytest

from scripts import licences

LOCK: dict[str, Any] = {
    "package": [
        {
            "name": "nats-llm-sidecar",
            "dependencies": [{"name": "click"}, {"name": "windows", "marker": "sys_platform == 'win32'"}],
            "optional-dependencies": {"server": [{"name": "h11"}], "otel": [{"name": "h11"}, {"name": "nowhere"}]},
        },
        {"name": "click", "dependencies": [{"name": "rich", "extra": ["more"]}]},
        {"name": "rich", "optional-dependencies": {"more": [{"name": "mdurl"}]}},
        {"name": "mdurl"},
        {"name": "h11"},
        {"name": "nowhere"},
        {"name": "windows"},
    ]
}
PAGE = "".join(f"<!-- licences: {part} -->\n<!-- end -->\n" for part in ("client", "server", "otel"))


def test_the_page_is_as_the_lock_and_the_metadata_say() -> None:
    assert licences.problems() == []


def test_each_package_stands_once_where_it_is_first_needed() -> None:
    parts = licences.shipped(LOCK)
    assert parts == {"client": ["click", "mdurl", "rich"], "server": ["h11"], "otel": ["nowhere"]}


def test_what_is_not_installed_keeps_its_row_or_is_asked_for() -> None:
    made, problems = licences.render(licences.shipped(LOCK), PAGE)
    assert "| h11 | MIT |\n" in made
    assert len(problems) == 1
    assert "nowhere" in problems[0]
    known = PAGE.replace("otel -->\n", "otel -->\n| nowhere | MPL-2.0 |\n")
    made, problems = licences.render(licences.shipped(LOCK), known)
    assert (problems, made.count("| nowhere | MPL-2.0 |")) == ([], 1)
    assert licences.render(licences.shipped(LOCK), made) == (made, [])


def test_drift_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = licences.PAGE.read_text("utf-8")
    changed = tmp_path / "licences.md"
    monkeypatch.setattr(licences, "PAGE", changed)
    changed.write_text(page.replace("| click | BSD-3-Clause |", "| click | MIT |"), "utf-8")
    assert licences.problems() == ["docs/licences.md differs from the lock: ./dev licences makes it anew"]
    changed.write_text(page.replace("licences: otel", "no mark"), "utf-8")
    assert any("otel" in problem for problem in licences.problems())
