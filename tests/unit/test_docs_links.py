"""Links and anchors in the documentation lead somewhere, in the repository and in its site."""

import re
from pathlib import Path

import pytest
import yaml

from scripts.docs_site import BORROWED, turned

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "schemas/README.md"],
)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\[\]]*\]\(([^()\s]+)\)")


def prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "code", _FENCE.sub("", path.read_text("utf-8")))


def anchors(path: Path) -> set[str]:
    """As GitHub and the site make them of headings."""
    found: set[str] = set()
    text = _FENCE.sub("", path.read_text("utf-8"))
    for title in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_anchors_exist(page: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        is_there = there.exists() and ROOT in (there, *there.parents)
        if not is_there or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


def nav_pages(entry: object) -> list[str]:
    if isinstance(entry, list):
        return [page for item in entry for page in nav_pages(item)]
    if isinstance(entry, dict):
        return [page for item in entry.values() for page in nav_pages(item)]
    return [str(entry)]


def test_each_page_is_in_the_sites_navigation() -> None:
    listed = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert len(set(listed)) == len(listed)
    written = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    whole_folders = tuple(page.removesuffix("*") for page in listed if page.endswith("/*"))
    assert {page for page in written if not page.startswith(whole_folders)} <= set(listed)


def test_the_site_loads_nothing_from_elsewhere() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert config["theme"]["font"] is False
    assert config["plugins"] == ["search"]
    assert not {"extra_javascript", "extra_css"} & set(config)


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/faq.md", "[a](../schemas/README.md)", "[a](schemas.md)"),
        ("docs/decisions/storage.md", "[a](../models.md#x)", "[a](../models.md#x)"),
        ("docs/decisions/storage.md", "[a](../../CHANGELOG.md)", "[a](../changelog.md)"),
        ("docs/faq.md", "[`a`](../sidecar/pipeline.py)", "`a`"),
        (
            "docs/faq.md",
            "[a](https://nats.io) [b](#c) ![d](img/e.png)",
            "[a](https://nats.io) [b](#c) ![d](img/e.png)",
        ),
        ("schemas/README.md", "[a](../docs/protocol.md)", "[a](protocol.md)"),
        ("README.md", "[a](docs/decisions/)", "a"),
    ],
)
def test_links_are_turned_for_the_site(page: str, text: str, expected: str) -> None:
    assert turned(text, page=page) == expected


def test_borrowed_pages_exist() -> None:
    assert all((ROOT / page).is_file() for page in BORROWED)
