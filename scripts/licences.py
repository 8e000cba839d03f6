"""`./dev licences`: the page of licences of what is shipped, from the lock and the packages' own metadata.

`--write` makes the tables of docs/licences.md anew and needs all extras installed; without it they are compared,
as far as packages are installed. `./dev check` compares, too.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/licences.md"
LOCK = ROOT / "uv.lock"
PRODUCT = "nats-llm-sidecar"
CLIENT = "client"

_MARK = re.compile(r"(<!-- licences: (?P<part>[a-z]+) -->\n)(?P<table>.*?)(?=<!-- end -->)", re.DOTALL)
_ROW = re.compile(r"^\| (?P<name>[a-z0-9.-]+) \| (?P<licence>[^|]+) \|$", re.MULTILINE)
# Packages whose metadata name a family, in the terms of the SPDX list.
_SPDX = {
    "MIT License": "MIT",
    "MIT": "MIT",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD",
    "BSD": "BSD",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache-2.0 License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
}


def shipped(lock: Mapping[str, Any]) -> dict[str, list[str]]:
    """What comes with the product alone (the client's part), and what each extra adds, by the lock."""
    packages = {package["name"]: package for package in lock["package"]}
    product = packages[PRODUCT]
    extras = product.get("optional-dependencies", {})
    parts = {CLIENT: _closure(packages, product["dependencies"])}
    # `server` first, so that an extra of it lists only what it adds.
    for extra in sorted(extras, key=lambda name: (name != "server", name)):
        known = set().union(*parts.values()) if extra != "server" else set(parts[CLIENT])
        parts[extra] = _closure(packages, extras[extra]) - known
    return {part: sorted(names) for part, names in parts.items()}


def _closure(packages: Mapping[str, Any], wanted: Iterable[Mapping[str, Any]]) -> set[str]:
    found: set[str] = set()
    seen: set[tuple[str, tuple[str, ...]]] = set()
    left = list(wanted)
    while left:
        entry = left.pop()
        place = (entry["name"], tuple(entry.get("extra", ())))
        if place in seen or "sys_platform == 'win32'" in entry.get("marker", ""):
            continue
        seen.add(place)
        package = packages[entry["name"]]
        left += package.get("dependencies", [])
        for extra in place[1]:
            left += package.get("optional-dependencies", {}).get(extra, [])
        if entry["name"] != PRODUCT:
            found.add(entry["name"])
    return found


def licence_of(name: str) -> str | None:
    """By the installed package's metadata; None where it is not installed or says nothing."""
    try:
        said = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if expression := said.get("License-Expression"):
        return expression
    kinds = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier") or () if c.startswith("License ::")]
    kinds = [kind for kind in kinds if kind != "OSI Approved"]
    first = (said.get("License") or "").strip().partition("\n")[0]
    named = kinds or [first]
    return " OR ".join(_SPDX.get(kind, kind) for kind in named) or None


def render(parts: Mapping[str, Iterable[str]], page: str) -> tuple[str, list[str]]:
    """The page with its tables made anew, and what stands in the way."""
    problems: list[str] = []
    before = {row["name"]: row["licence"].strip() for row in _ROW.finditer(page)}
    seen = set()

    def table(found: re.Match[str]) -> str:
        part = found["part"]
        seen.add(part)
        rows = ["| package | licence |", "| --- | --- |"]
        for name in parts.get(part, ()):
            licence = licence_of(name) or before.get(name)
            if licence is None:
                problems.append(f"{name}: its licence is not known; install all extras: ./dev licences")
            rows.append(f"| {name} | {licence} |")
        return found[1] + "\n".join([*rows, ""])

    made = _MARK.sub(table, page)
    problems += [f"the page has no table for {part!r}" for part in parts if part not in seen]
    return made, problems


def problems() -> list[str]:
    """What the page says wrongly; empty when it is right."""
    page = PAGE.read_text("utf-8")
    made, found = render(shipped(tomllib.loads(LOCK.read_text("utf-8"))), page)
    return found + ["docs/licences.md differs from the lock: ./dev licences makes it anew"] * (made != page)


def main(arguments: list[str]) -> int:
    """Exit code 0 when the page is right, or was made so."""
    if "--write" not in arguments:
        found = problems()
        print("\n".join(found) or "docs/licences.md is as the lock says")
        return 1 if found else 0
    made, found = render(shipped(tomllib.loads(LOCK.read_text("utf-8"))), PAGE.read_text("utf-8"))
    print("\n".join(found), end="\n" if found else "")
    PAGE.write_text(made, "utf-8")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
