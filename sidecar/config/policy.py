"""What may change while the process runs: the policy of classes, tenants, models, filters and tools."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from sidecar.config import filters
from sidecar.config.sections import Section
from sidecar.errors import InvalidRequest, StartupError
from sidecar.models.plain import MOST_DEPTH, from_json, from_toml, is_deeper
from sidecar.models.shown import on_one_line, shown
from sidecar.models.subjects import is_name

_MOST_TOLD = 20

# Bounds that no deployment meets: beyond them sums and products leave what a float or the server holds.
MOST_USD = 1e9
Weight = Annotated[float, Field(ge=1e-6, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**15)]


class ClassPolicy(Section):
    weight: Weight
    filters: tuple[str, ...] = ()
    max_hold_s: float | None = Field(
        None,
        ge=0,
        le=31_536_000,
        description="how long its jobs may be held while no model can be called; 0: without a bound; none given:"
        " 30 for interactive, 0 for the others",
    )


INTERACTIVE_HOLD_S = 30.0


class TenantPolicy(Section):
    """What a tenant may have. `[tenants.default]` holds for every tenant that has no section of its own."""

    deny: bool = False
    weight: Weight = 1.0
    max_queue: Count = Field(10_000, description="queued and running jobs of one class")
    max_concurrency: Count | None = None
    tokens_per_minute: Count | None = None
    budget_usd_per_day: float | None = Field(None, gt=0, le=MOST_USD)
    max_tokens: Count | None = Field(None, description="upper bound of a request's max_tokens")
    classes: tuple[Literal["interactive", "standard", "batch"], ...] = ("interactive", "standard", "batch")
    models: tuple[str, ...] | None = Field(None, description="aliases allowed; none given: all")
    tools: tuple[str, ...] | None = Field(None, description="tools allowed; none given: all")
    filters: tuple[str, ...] = ()
    keep_failed: bool = Field(True, description="keep the requests of failed jobs, for `sidecar retry`")


class ModelPolicy(Section):
    """One entry of `[models.<alias>]`, over or beside the catalogue."""

    id: str | None = None
    base: str | None = Field(
        None,
        description="alias or id of the catalogue's model that an opaque id stands for (an ARN of an "
        "application inference profile, say)",
    )
    regions: tuple[str, ...] | None = None
    quality: Literal["fast", "balanced", "best"] | None = None
    kinds: tuple[str, ...] | None = None
    quality_by_kind: dict[str, Literal["fast", "balanced", "best"]] | None = Field(
        None, description="where it is better or worse at a kind of task than `quality` says"
    )
    family: Literal["claude", "nova", "other"] | None = None
    capabilities: tuple[str, ...] | None = None
    context_tokens: Count | None = None
    max_output_tokens: Count | None = None
    tokens_per_minute: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_day: Count | None = None
    max_concurrency: Count | None = None
    burndown: float | None = Field(None, gt=0, le=1_000)
    price_input: float | None = Field(None, ge=0, le=MOST_USD, description="US dollars for a million tokens")
    price_output: float | None = Field(None, ge=0, le=MOST_USD, description="US dollars for a million tokens")
    price_cache_read: float | None = Field(None, ge=0, le=MOST_USD, description="US dollars for a million tokens")
    price_cache_write: float | None = Field(None, ge=0, le=MOST_USD, description="US dollars for a million tokens")
    fallback: tuple[str, ...] | None = Field(None, description="aliases in order; empty: no fallback")


class SelectionPolicy(Section):
    """`[selection]`: how a model is chosen for a request that names none."""

    infer: bool = Field(
        True,
        description="tell the kind of a task by its words and shape where a request names no task and no model",
    )
    infer_up_to: Literal["fast", "balanced", "best"] = Field(
        "balanced", description="the best quality that may be inferred"
    )


class FilterPolicy(Section):
    kind: str
    action: Literal["redact", "block", "flag"] = "redact"
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _is_flat(cls, options: dict[str, Any]) -> dict[str, Any]:
        if is_deeper(options, MOST_DEPTH):
            raise ValueError(f"is nested too deep: {MOST_DEPTH} levels are read")
        return options

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "FilterPolicy":
        filters.check(self.kind, self.options)
        if self.kind == "sanitise" and self.action != "redact":
            raise ValueError("action: a sanitiser has none; its options say remove, mark or keep")
        return self


def check_filter_names(
    classes: Mapping[Any, ClassPolicy], tenants: Mapping[str, TenantPolicy], there: Mapping[str, FilterPolicy]
) -> None:
    """Raises ValueError for a list that names a filter that is not configured."""
    listed = [(f"classes.{name}", section.filters) for name, section in classes.items()]
    listed += [(f"tenants.{name}", section.filters) for name, section in tenants.items()]
    for where, names in listed:
        for at, name in enumerate(names):
            if name not in there:
                known = ", ".join(there) or "none"
                raise ValueError(
                    f"{where}.filters[{at}]: no filter named {name!r} in [filters]: there are {known}"
                )


_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]{0,63})\s*\}\}")


class JobTool(Section):
    """One entry of `[job_tools]`: a tool that runs as a job of its own, below the one that calls it."""

    description: str = Field("Have a task done by another model, which sees nothing but it.", min_length=1)
    prompt: str = Field("{{task}}", min_length=1, description="each {{name}} is a text that the caller gives")
    system: str | None = None
    model: str | tuple[str, ...] | None = Field(None, description="as in a request; none: the selector decides")
    max_tokens: Count | None = None
    max_cost_usd: float | None = Field(
        None, gt=0, le=MOST_USD, description="the most of the caller's budget for one call"
    )
    max_turns: int | None = Field(None, ge=1, le=1000)
    max_tool_calls: int | None = Field(None, ge=0, le=1000)
    tools: tuple[str, ...] = Field((), description="what the job itself may call")
    timeout_s: float = Field(300.0, gt=0, le=86_400)
    job_class: Literal["interactive", "standard", "batch"] | None = Field(None, description="none: the caller's")

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_VARIABLE.findall(self.prompt)))

    @property
    def input_schema(self) -> dict[str, Any]:
        names = self.variables
        return {
            "type": "object",
            "properties": {name: {"type": "string"} for name in names},
            "required": list(names),
            "additionalProperties": False,
        }

    def problem(self, given: dict[str, Any]) -> str | None:
        """Why `given` does not fill the prompt; None if it does."""
        names = self.variables
        for name in names:
            if name not in given:
                return f"the input lacks {name!r} (input_schema: /required)"
            if not isinstance(given[name], str):
                return (
                    f"the input does not fit at {name}: a text is needed (input_schema: /properties/{name}/type)"
                )
        unknown = sorted(set(given) - set(names))
        return f"the input has {unknown[0]!r}, which is not known" if unknown else None

    def filled(self, given: dict[str, Any]) -> str:
        """The prompt with its variables. What they say is not read as a template again."""
        return _VARIABLE.sub(lambda found: str(given[found[1]]), self.prompt)


class ToolsPolicy(Section):
    """`[tools]`: which tools are looked for on the bus, beside those that are registered."""

    discovery: tuple[Annotated[str, Field(pattern=r"^([A-Za-z0-9_-]{1,64}|\*)$")], ...] = Field(
        ("shared",),
        description="scopes for which micro services with `llm.tool` metadata count as tools; `*` for all",
    )


DEFAULT_CLASSES: dict[Literal["interactive", "standard", "batch"], ClassPolicy] = {
    "interactive": ClassPolicy(weight=100),
    "standard": ClassPolicy(weight=20),
    "batch": ClassPolicy(weight=1),
}
# A section for one class changes that class: the others stay, or their jobs could not be queued.
Classes = Annotated[
    dict[Literal["interactive", "standard", "batch"], ClassPolicy],
    AfterValidator(lambda given: {**DEFAULT_CLASSES, **given}),
]


_ToolName = Annotated[str, Field(pattern=r"^([A-Za-z0-9_-]{1,64}|llm\.job)$")]


def _with_llm_job(given: Any) -> Any:
    """TOML reads `[job_tools.llm.job]`, without quotes, as a table in a table: it means the same."""
    if not isinstance(given, dict) or not isinstance(given.get("llm"), dict) or "job" not in given["llm"]:
        return given
    rest = {name: value for name, value in given["llm"].items() if name != "job"}
    others = {name: value for name, value in given.items() if name != "llm"}
    return {**others, "llm.job": given["llm"]["job"], **({"llm": rest} if rest else {})}


JobTools = Annotated[dict[_ToolName, JobTool], BeforeValidator(_with_llm_job)]


def _check_tenant_name(name: str) -> str:
    if not is_name(name):
        raise ValueError(
            f"{shown(name, 80)} is no tenant's name, and would hold for nobody: use 1 to 64 of A-Z a-z 0-9 _ -"
        )
    return name


Tenants = dict[Annotated[str, AfterValidator(_check_tenant_name)], TenantPolicy]


class Policy(Section):
    """The part of the settings that can change while the process runs."""

    classes: Classes = DEFAULT_CLASSES
    tools: ToolsPolicy = ToolsPolicy()
    tenants: Tenants = Field(default_factory=dict)
    models: dict[str, ModelPolicy] = Field(default_factory=dict)
    selection: SelectionPolicy = SelectionPolicy()
    filters: dict[str, FilterPolicy] = Field(default_factory=dict)
    job_tools: JobTools = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_what_is_there(self) -> "Policy":
        check_filter_names(self.classes, self.tenants, self.filters)
        return self

    def max_hold_s(self, job_class: str) -> float | None:
        """How long a class's jobs may be held; None without a bound."""
        given = next((policy.max_hold_s for name, policy in self.classes.items() if name == job_class), None)
        if given is None:
            return INTERACTIVE_HOLD_S if job_class == "interactive" else None
        return given or None

    def tenant(self, name: str) -> TenantPolicy:
        """The policy of a tenant, by its own section or `[tenants.default]`."""
        found = self.tenants.get(name) or self.tenants.get("default")
        return found or _ANY_TENANT


_ANY_TENANT = TenantPolicy()


@dataclass(slots=True)
class CurrentPolicy:
    """The policy that holds `now`. Whoever has this asks it each time, so that a reload holds for all at once."""

    now: Policy


def merge_policy(base: Policy, document: bytes | None) -> Policy:
    """`base` with what a TOML or JSON `document` says: an entry there (a tenant, a model) replaces the base's.

    Raises StartupError that names each field that is wrong.
    """
    if document is None:
        return base
    sections = _parsed(document)
    merged = base.model_dump(exclude_unset=True)
    for name, entries in sections.items():
        both = isinstance(entries, dict) and name in Policy.model_fields
        merged[name] = {**merged.get(name, {}), **entries} if both else entries
    try:
        return Policy.model_validate(merged)
    except ValidationError as e:
        raise not_valid("the policy", e) from e


def _parsed(document: bytes) -> dict[str, Any]:
    try:
        text = document.decode()
        sections = from_json(text) if text.lstrip().startswith("{") else from_toml(text)
    except UnicodeDecodeError as e:
        raise StartupError(f"the policy is neither TOML nor JSON: byte {e.start} is no UTF-8") from e
    except InvalidRequest as e:
        raise StartupError(f"the policy is neither TOML nor JSON: {e.message}") from e
    if not isinstance(sections, dict):
        raise StartupError("the policy is no table of sections")
    return sections


def not_valid(what: str, error: ValidationError) -> StartupError:
    """Names the first fields that are wrong. Their names are whoever's who wrote the document."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [
        on_one_line(f"{'.'.join(str(p) for p in item['loc'])}: {item['msg']}", 300) for item in found[:_MOST_TOLD]
    ]
    if len(found) > _MOST_TOLD:
        lines.append(f"and {len(found) - _MOST_TOLD} more")
    return StartupError(f"{what} is not valid: " + "; ".join(lines))
