"""From what the configuration says of a filter to the filter, in any process. Pure."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from sidecar.config.filters import (
    OPTIONS,
    PLUGIN_GROUP,
    BlocklistOptions,
    PiiOptions,
    SanitiseOptions,
    ScreenOptions,
    SecretsOptions,
    parsed,
    split_plugin,
)
from sidecar.response_formatter.filters.scanner import Detector, FilterRule, RuleSource


def rule_of(source: RuleSource) -> FilterRule | None:
    """The rule that an entry of `[filters]` stands for; None for one that is no rule. Raises ValueError."""
    if source.kind not in OPTIONS:
        return plugin_rule(source, made_by_plugin(source.kind, source.options))
    options = parsed(source.kind, source.options)
    if not isinstance(options, ScreenOptions):
        return None
    return FilterRule(source.name, source.action, _detector(options), options.placeholder, source)


def made_by_plugin(kind: str, options: Mapping[str, Any]) -> Any:
    """What an installed package makes of the options that are its own. Raises ValueError."""
    found = [point for point in entry_points(group=PLUGIN_GROUP) if point.name == kind]
    if not found:
        raise ValueError(f"kind: no installed package brings {kind!r}")
    make: Callable[[dict[str, Any]], Any] = found[0].load()
    return make(split_plugin(options)[1])


def plugin_rule(source: RuleSource, made: Any) -> FilterRule | None:
    """The rule that a plugin made; None for what is none."""
    if not all(hasattr(made, part) for part in ("find", "settled", "window", "context")):
        return None
    return FilterRule(source.name, source.action, made, split_plugin(source.options)[0].placeholder, source)


def sanitiser_of(options: Mapping[str, Any]) -> SanitiseOptions:
    """Options of a sanitiser, as `SanitiseOptions.model_dump` gives them."""
    return SanitiseOptions.model_validate(options)


def _detector(options: ScreenOptions) -> Detector:
    """Imported as they are needed: their libraries take a tenth of a second."""
    if isinstance(options, PiiOptions):
        from sidecar.response_formatter.filters.pii import PiiDetector

        return PiiDetector(options)
    if isinstance(options, SecretsOptions):
        from sidecar.response_formatter.filters.secrets import SecretDetector

        return SecretDetector(options)
    assert isinstance(options, BlocklistOptions)  # noqa: S101
    from sidecar.response_formatter.filters.blocklist import BlocklistDetector

    return BlocklistDetector(options)
