"""Hooks of the documentation's site: pages that stand elsewhere in the repository, links that lead out of docs/.

Links in docs/ are written for the repository, where they are read, too. A link to a page that the site has is
turned towards it; any other that leaves docs/ becomes plain text, since the site can't serve it.
"""

import posixpath
import re
from typing import Any

BORROWED = {
    "schemas/README.md": "schemas.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
"""Where pages outside docs/ stand in the site."""
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
_OUTER = re.compile(r"[a-z]+:|#|/")


def turned(text: str, *, page: str) -> str:
    """The page's Markdown for the site. `page` is its place in the repository."""

    def turn(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        if _OUTER.match(target):
            return match[0]
        path, hash_, anchor = target.partition("#")
        full = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        here = site_place(page)
        there = site_place(full)
        if there is None:
            return label
        return f"[{label}]({posixpath.relpath(there, posixpath.dirname(here or '') or '.')}{hash_}{anchor})"

    return _LINK.sub(turn, text)


def site_place(path: str) -> str | None:
    """Where a file of the repository stands in the site; None where it is not there."""
    if path in BORROWED:
        return BORROWED[path]
    return path.removeprefix("docs/") if path.startswith("docs/") and posixpath.splitext(path)[1] else None


def on_config(config: Any) -> Any:
    """Pages of the navigation that are not written yet are left out; `folder/*` is all pages of a folder."""
    from pathlib import Path

    config.nav = _present(config.nav, Path(config.docs_dir))
    return config


def _present(entry: Any, docs: Any) -> Any:
    if isinstance(entry, list):
        return [kept for kept in (_present(item, docs) for item in entry) if kept]
    if isinstance(entry, dict):
        return {name: kept for name, value in entry.items() if (kept := _present(value, docs))}
    if entry.endswith("/*"):
        return [page.relative_to(docs).as_posix() for page in sorted(docs.glob(f"{entry[:-1]}*.md"))]
    return entry if entry in BORROWED.values() or (docs / entry).is_file() else None


def on_files(files: Any, *, config: Any) -> Any:
    from pathlib import Path

    from mkdocs.structure.files import File

    root = Path(config.docs_dir).parent
    for source, place in BORROWED.items():
        text = turned((root / source).read_text("utf-8"), page=source)
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    uri: str = page.file.src_uri
    return markdown if uri in BORROWED.values() else turned(markdown, page=f"docs/{uri}")
