"""What `[filters.<name>] options` may say, by kind of filter. Validated when the configuration is read.

Names are those of docs/filters.md. Every error names its field; nothing here is compiled yet.
"""

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

Treatment = Literal["remove", "mark", "keep"]
Direction = Literal["input", "output", "tools"]

PLUGIN_GROUP: Final = "llm_sidecar.filters"
LONGEST_MATCH: Final = 1_000

PiiKind = Literal["email", "phone", "iban", "card", "national_id", "ip_address"]
Words = tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...]
Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SanitiseOptions(Options):
    """What happens to characters that a reader does not see; half surrogate pairs always become U+FFFD."""

    controls: Treatment = "remove"
    bidi: Treatment = "remove"
    invisible: Treatment = "remove"
    max_chars: int = Field(4_000_000, ge=1, description="an answer's text; what is longer is cut, and said so")


class ScreenOptions(Options):
    """What all filters have in common."""

    on: tuple[Direction, ...] = Field(("output",), min_length=1)
    placeholder: str = Field("[{KIND}]", max_length=64, description="what redacted text becomes")

    @field_validator("placeholder")
    @classmethod
    def _is_a_placeholder(cls, value: str) -> str:
        left = value.replace("{KIND}", "").replace("{kind}", "")
        if "{" in left or "}" in left:
            raise ValueError("may hold {KIND} or {kind}, and no other braces")
        return value


class PiiOptions(ScreenOptions):
    kinds: tuple[PiiKind, ...] = Field(("email", "phone", "iban", "card", "national_id"), min_length=1)
    regions: tuple[Country, ...] = Field(
        ("US", "GB", "DE", "FR", "ES", "IT", "NL", "BR", "PL", "IN"),
        description="countries whose national phone numbers are looked for",
    )
    allow: Words = Field((), description="values that stay, such as a support address; letter case is ignored")


class SecretsOptions(ScreenOptions):
    generic: bool = Field(True, description="also values assigned to names such as password or api_key")
    allow: Words = ()


class BlocklistOptions(ScreenOptions):
    words: Words = Field((), description="words and phrases; letter case is ignored")
    patterns: Words = Field((), description="regular expressions in the syntax of RE2")
    whole_words: bool = True
    max_match_chars: int = Field(128, ge=1, le=LONGEST_MATCH, description="the longest that a pattern may match")

    @field_validator("words")
    @classmethod
    def _are_words(cls, words: Words) -> Words:
        for at, word in enumerate(words):
            if not word.strip():
                raise ValueError(f"[{at}] is only white space")
        return words

    @field_validator("patterns")
    @classmethod
    def _are_patterns(cls, patterns: Words) -> Words:
        for at, pattern in enumerate(patterns):
            try:
                _check_pattern(pattern)
            except ValueError as e:
                raise ValueError(f"[{at}]: {e}") from e
        return patterns

    def model_post_init(self, _: Any) -> None:
        if not self.words and not self.patterns:
            raise ValueError("give words, patterns or both")


class GuardrailOptions(Options):
    id: str = Field(min_length=1, max_length=2048)
    version: str = Field("DRAFT", pattern=r"^([1-9][0-9]{0,7}|DRAFT)$")
    region: str | None = Field(None, description="where the guardrail is; default the first of bedrock.regions")
    on: tuple[Literal["input", "output"], ...] = Field(("output",), min_length=1)
    segment_chars: int = Field(2_000, ge=100, le=20_000, description="how much text is judged at a time")
    timeout_s: float = Field(10.0, gt=0, le=120)


OPTIONS: Mapping[str, type[Options]] = {
    "sanitise": SanitiseOptions,
    "pii": PiiOptions,
    "secrets": SecretsOptions,
    "blocklist": BlocklistOptions,
    "bedrock_guardrail": GuardrailOptions,
}


def _check_pattern(pattern: str) -> None:
    # Imported late: only a policy with patterns needs it.
    import re2

    quiet = re2.Options()
    quiet.log_errors = False
    try:
        compiled = re2.compile(pattern, quiet)
    except re2.error as e:
        why = e.args[0].decode(errors="replace") if isinstance(e.args[0], bytes) else str(e.args[0])
        raise ValueError(f"is no regular expression of RE2 (which has no look-around): {why}") from e
    if compiled.search("") is not None:
        raise ValueError("matches the empty text")
    if re.search(r"(?<!\\)(?:\\\\)*(?:\\[AzZ]|\$)", re.sub(r"\[(?:\\.|[^\]])*\]", "[]", pattern)) or (
        re.search(r"(?:^|[(|])\^", pattern)
    ):
        raise ValueError("is tied to the text's beginning or end, which a stream does not know")


def parsed(kind: str, options: Mapping[str, Any]) -> Options:
    """The options of a kind that is ours. Raises ValueError that names each field that is wrong."""
    try:
        return OPTIONS[kind].model_validate(options)
    except ValidationError as e:
        raise ValueError("; ".join(_said(item) for item in e.errors())) from e


def check(kind: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for a kind that nobody has, and for options that its kind does not take."""
    if kind in OPTIONS:
        parsed(kind, options)
        return
    installed = plugin_kinds()
    if kind not in installed:
        known = ", ".join([*OPTIONS, *sorted(installed)])
        raise ValueError(f"kind: no filter kind {kind!r}: there are {known}; more by entry point {PLUGIN_GROUP!r}")
    split_plugin(options)


def plugin_kinds() -> frozenset[str]:
    """Kinds that installed packages bring."""
    return frozenset(entry_points(group=PLUGIN_GROUP).names)


def split_plugin(options: Mapping[str, Any]) -> tuple[ScreenOptions, dict[str, Any]]:
    """What is ours of a plugin's options, and what it reads itself. Raises ValueError."""
    ours = {key: value for key, value in options.items() if key in ScreenOptions.model_fields}
    try:
        common = ScreenOptions.model_validate(ours)
    except ValidationError as e:
        raise ValueError("; ".join(_said(item) for item in e.errors())) from e
    return common, {key: value for key, value in options.items() if key not in ours}


def _said(item: Any) -> str:
    path = "options" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
    return f"{path}: {str(item['msg']).removeprefix('Value error, ')}"
