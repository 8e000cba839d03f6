"""What is known of a model: what it can do, what it costs, where it can be called, how it wants to be asked."""

from functools import cached_property
from typing import Literal

from sidecar.models.base import Open

Family = Literal["claude", "nova", "other"]
Capability = Literal[
    "tools", "images", "documents", "reasoning", "structured_output", "long_context", "caching", "streaming"
]
Lifecycle = Literal["active", "legacy", "end_of_life"]


class Price(Open, frozen=True, kw_only=True):
    """US dollars for a million tokens. A tier applies where the input is longer than `above_tokens`."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    above_tokens: int = 0


class QuotaLimits(Open, frozen=True, kw_only=True):
    """A pool's quota. None: not known, to be learned (tokens, requests) or not limited (concurrency)."""

    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_concurrency: int | None = None
    burndown: float = 1.0


class Traits(Open, frozen=True, kw_only=True):
    """How a model's requests differ from the plain Converse form; the normalisers go by these alone.

    `sampling`: which of temperature and top_p may be sent (`one`: not together). `reasoning`: `budget` is
    Claude's thinking with budget_tokens, `adaptive` its effort form, `nova` reasoningConfig, `inline` text
    between <thinking> tags, `always` a model that reasons unasked. `forced_tool`: whether tool_choice any or a
    name is taken. `schema`: native outputConfig, a forced tool, or none. `long_cache`: cache points may live an
    hour. `max_stops`: how many stop sequences are taken, None for as many as Converse takes.
    `text_beside_results`: anything else may stand in one message with tool results.
    """

    sampling: Literal["both", "one", "none"] = "both"
    top_k: bool = False
    reasoning: Literal["none", "budget", "adaptive", "nova", "inline", "always"] = "none"
    replays_reasoning: bool = False
    forced_tool: Literal["yes", "not_with_reasoning", "no"] = "yes"
    prefill: bool = True
    schema: Literal["native", "tool", "none"] = "tool"
    cache_points: tuple[Literal["system", "messages", "tools"], ...] = ()
    cache_min_tokens: int = 1024
    hyphens_in_tool_names: bool = True
    system_prompt: bool = True
    tool_streaming: bool = True
    long_cache: bool = False
    max_stops: int | None = None
    text_beside_results: bool = True
    images_in_results: bool = True


def public_id(invoke_id: str, alias: str) -> str:
    """A model's id as tenants see it.

    An ARN says whose account it is: of one that tells the model it is the id in it, of any other (an application
    inference profile's, say) the alias.
    """
    if not invoke_id.startswith("arn:"):
        return invoke_id
    kind, _, resource = invoke_id.split(":", 5)[-1].partition("/")
    return resource if resource and kind in ("foundation-model", "inference-profile") else alias


class Route(Open, frozen=True, kw_only=True, dict=True):
    """One way to call a model: `invoke_id` (model id, inference profile or ARN) in `region`. One quota pool."""

    region: str
    invoke_id: str
    limits: QuotaLimits = QuotaLimits()
    price_factor: float = 1.0

    @cached_property
    def pool(self) -> str:
        """The name of its quota pool. Read a dozen times a job, so it is made once."""
        return f"{self.invoke_id}@{self.region}"


class ModelProfile(Open, frozen=True, kw_only=True):
    """A model of the catalogue. `sources` says where each fact that is not self-evident comes from."""

    alias: str
    model_id: str
    family: Family
    name: str
    quality: Literal["fast", "balanced", "best"] = "balanced"
    kinds: tuple[str, ...] = ()
    quality_by_kind: dict[str, Literal["fast", "balanced", "best"]] = {}
    context_tokens: int = 32_000
    max_output_tokens: int = 4_096
    capabilities: tuple[Capability, ...] = ()
    service_tiers: tuple[str, ...] = ("default",)
    lifecycle: Lifecycle = "active"
    prices: tuple[Price, ...] = ()
    traits: Traits = Traits()
    routes: tuple[Route, ...] = ()
    fallback: tuple[str, ...] | None = None
    sources: dict[str, str] = {}

    @property
    def public_id(self) -> str:
        return public_id(self.model_id, self.alias)


class Candidate(Open, frozen=True, kw_only=True, dict=True):
    """A profile by one of its routes: what the coordinator proposes, quota reserves and the client calls."""

    profile: ModelProfile
    route: Route
    reason: str = ""

    @cached_property
    def public_id(self) -> str:
        """`route.invoke_id` as tenants see it."""
        return public_id(self.route.invoke_id, self.profile.alias)

    @property
    def public_pool(self) -> str:
        return f"{self.public_id}@{self.route.region}"
