"""A guardrail of Bedrock as a filter: every segment of a text is judged by ApplyGuardrail."""

from sidecar.config.filters import GuardrailOptions
from sidecar.models.filtering import FilterContext, Filtered
from sidecar.ports.bus import ModelClient


class GuardrailFilter:
    """Asks `models`. What the guardrail masks is what a redaction shows; a block redacts to its own message."""

    def __init__(self, options: GuardrailOptions, *, models: ModelClient, region: str) -> None:
        self._options = options
        self._models = models
        self._region = options.region or region
        self.segment_chars = options.segment_chars

    async def apply(self, text: str, context: FilterContext) -> Filtered:
        """Raises the typed errors of a call."""
        if not text.strip():
            return Filtered(text=text)
        options = self._options
        verdict = await self._models.apply_guardrail(
            options.id,
            version=options.version,
            text=text,
            source="INPUT" if context.direction == "input" else "OUTPUT",
            region=self._region,
            timeout_s=options.timeout_s,
        )
        if not verdict.intervened:
            return Filtered(text=text)
        return Filtered(text=verdict.text, kinds=verdict.kinds or {"guardrail": 1})
