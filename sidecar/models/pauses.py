"""What operators hold back: jobs of a tenant, class or model that are not begun until they are released."""

from typing import Annotated, Literal

import msgspec

from sidecar.models.base import Open, Strict, Timestamp, matching

ANY = "*"
MOST_PAUSES = 500

Reason = Annotated[str, msgspec.Meta(max_length=512)]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
NameOrAny = Annotated[str, matching(r"^(\*|[A-Za-z0-9_-]{1,64})$", "a name, or * for any")]


class Matching(Strict, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """One at least is given; `*`, or what is not given, is any. A model's jobs are those that call it first."""

    tenant: NameOrAny | None = None
    job_class: Literal["interactive", "standard", "batch", "*"] | None = None
    model: ModelName | None = None

    @property
    def is_empty(self) -> bool:
        return (self.tenant, self.job_class, self.model) == (None, None, None)


class PauseRequest(Matching, frozen=True, kw_only=True):
    """What to hold, and why. `dry_run` tells what would be held then, and holds nothing."""

    reason: Reason = ""
    dry_run: bool = False


class ResumeRequest(Matching, frozen=True, kw_only=True):
    """Which pauses to end: those that say the same of what is given here; `*` is whatever they say."""

    dry_run: bool = False


class Pause(Open, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """What is held. Null is any."""

    tenant: str | None = None
    job_class: str | None = None
    model: str | None = None
    reason: str = ""
    since: Timestamp

    def is_same(self, other: "Pause") -> bool:
        return (self.tenant, self.job_class, self.model) == (other.tenant, other.job_class, other.model)

    def holds_lane(self, tenant: str, job_class: str) -> bool:
        """Whether it holds jobs of this tenant and class, of whichever model."""
        return self.tenant in (None, tenant) and self.job_class in (None, job_class)

    def is_meant(self, asked: ResumeRequest) -> bool:
        """Whether it is to be ended."""
        mine = (self.tenant, self.job_class, self.model)
        theirs = (asked.tenant, asked.job_class, asked.model)
        return all(wanted in (None, ANY, held) for wanted, held in zip(theirs, mine, strict=True))


class Pauses(Open, frozen=True, kw_only=True):
    """All that is held now, or with `dry_run` would be; `before` is what was held before."""

    pauses: tuple[Pause, ...] = ()
    before: tuple[Pause, ...] = ()
    dry_run: bool = False
