"""Semantic versions and the ranges that requests ask for. Pure. The rules are semver.org's (2.0.0) and npm's."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, total_ordering
from typing import TypeVar

T = TypeVar("T")

_NUMBER = r"(0|[1-9][0-9]{0,15})"
_LABEL = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_LABELS = rf"(?:-({_LABEL}(?:\.{_LABEL})*))?"
_BUILD = r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}{_LABELS}{_BUILD}")
_PARTIAL = re.compile(rf"{_NUMBER}(?:\.{_NUMBER})?(?:\.[x*]){{0,2}}")
RANGE_FORMS = "use 1.2.0 (exactly), ^1.2 (compatible), ~1.2 (patches only), 1.2 (any patch) or *"

Core = tuple[int, int, int]
Rank = tuple[Core, bool, tuple[tuple[bool, int, str], ...], str]


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version. Ordered by precedence; build metadata only makes the order total."""

    core: Core
    labels: tuple[str, ...] = ()
    build: str = ""
    rank: Rank = field(init=False, repr=False, compare=False)
    """What it is ordered by."""

    def __post_init__(self) -> None:
        labels = tuple((not x.isdigit(), int(x) if x.isdigit() else 0, x) for x in self.labels)
        object.__setattr__(self, "rank", (self.core, not self.labels, labels, self.build))

    @property
    def is_prerelease(self) -> bool:
        return bool(self.labels)

    @property
    def line(self) -> tuple[int, int]:
        """Versions of one line promise to be compatible: a major version, or before 1.0.0 a minor one."""
        major, minor, _ = self.core
        return (major, 0) if major else (0, minor)

    def __lt__(self, other: "Version") -> bool:
        return self.rank < other.rank

    def __str__(self) -> str:
        labels = f"-{'.'.join(self.labels)}" if self.labels else ""
        return ".".join(map(str, self.core)) + labels + (f"+{self.build}" if self.build else "")


@dataclass(frozen=True, slots=True)
class Range:
    """Versions from `low` on, up to and without `below` (None: no end). `text` is how it was asked for.

    A pre-release fits only a range whose own lowest version is a pre-release of the same 1.2.3: nobody gets one
    without having asked for it.
    """

    text: str
    low: Version
    below: Core | None
    is_exact: bool = False

    def has(self, version: Version) -> bool:
        if self.is_exact:
            return version.core == self.low.core and version.labels == self.low.labels
        if version.labels and not (self.low.labels and version.core == self.low.core):
            return False
        return version.rank >= self.low.rank and (self.below is None or version.core < self.below)


@lru_cache(maxsize=4096)
def parse_version(text: str) -> Version:
    """Raises ValueError for what is no semantic version."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is not a semantic version such as 1.2.0")
    major, minor, patch, labels, build = found.groups()
    return Version((int(major), int(minor), int(patch)), tuple(labels.split(".")) if labels else (), build or "")


@lru_cache(maxsize=4096)
def parse_range(text: str) -> Range:
    """`*`, `1.2.0`, `^1.2`, `~1.2`, `1.2`, `1.x`; an empty text is `*`. Raises ValueError with the forms."""
    if text in ("", "*", "x"):
        return Range("*", Version((0, 0, 0)), None)
    operator, rest = (text[0], text[1:]) if text[0] in "^~=" else ("", text)
    if _VERSION.fullmatch(rest):
        low = parse_version(rest)
        if operator in ("", "="):
            return Range(text, low, None, is_exact=True)
        return Range(text, low, _above(operator, low.core, given=3))
    found = _PARTIAL.fullmatch(rest)
    if found is None or operator == "=" or rest.count(".") > 2:
        raise ValueError(f"{text[:80]!r} is not a range of versions: {RANGE_FORMS}")
    numbers = [int(number) for number in found.groups() if number is not None]
    core = (numbers[0], numbers[1] if len(numbers) > 1 else 0, 0)
    return Range(text, Version(core), _above(operator or "~", core, given=len(numbers)))


def _above(operator: str, core: Core, *, given: int) -> Core:
    """The first core version above a range whose lowest version was given with so many numbers.

    `~1.2.3` keeps 1.2, `~1` keeps 1; `^` keeps the leftmost number that is not 0, and every 0 before it.
    """
    kept = 1 if given == 1 else 2
    if operator == "^":
        kept = next((i + 1 for i, number in enumerate(core[:given]) if number), given)
    return _next(core, kept)


def _next(core: Core, kept: int) -> Core:
    major, minor, patch = core
    if kept == 1:
        return major + 1, 0, 0
    return (major, minor + 1, 0) if kept == 2 else (major, minor, patch + 1)


def highest(wanted: Range, offered: Iterable[tuple[Version, T]]) -> T | None:
    """What stands beside the highest version in the range."""
    best: tuple[Version, T] | None = None
    for version, item in offered:
        if wanted.has(version) and (best is None or version.rank > best[0].rank):
            best = version, item
    return None if best is None else best[1]
