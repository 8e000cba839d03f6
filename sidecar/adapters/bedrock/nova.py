"""Amazon Nova: Micro, Lite, Pro, Premier, and Nova 2."""

from typing import Any

from sidecar.adapters.bedrock.converse import ConverseFamily
from sidecar.adapters.bedrock.messages import MessageRules
from sidecar.adapters.bedrock.output import OutputPlan
from sidecar.models.call import ModelCall
from sidecar.models.profile import Traits

_MAX_TOP_K = 128
_LOW_BUDGET_TOKENS = 2048
_MEDIUM_BUDGET_TOKENS = 8192


class NovaFamily(ConverseFamily):
    def rules(self, traits: Traits) -> MessageRules:
        return MessageRules(
            starts_with_user=True,
            allows_prefill=traits.prefill,
            replays_reasoning=traits.replays_reasoning,
            allows_cache_points="messages" in traits.cache_points,
            result_documents=False,
        )

    def tool_schema(self, output: OutputPlan) -> dict[str, Any]:
        return output.forms.inlined

    def top_k(self, value: int) -> dict[str, Any]:
        return {"inferenceConfig": {"topK": min(value, _MAX_TOP_K)}}

    def reasoning(self, call: ModelCall, messages: list[dict[str, Any]], warnings: list[str]) -> dict[str, Any]:
        if call.reasoning is None or call.candidate.profile.traits.reasoning != "nova":
            return super().reasoning(call, messages, warnings)
        effort = call.reasoning.effort
        if effort == "none":
            return {"reasoningConfig": {"type": "disabled"}}
        if effort is None:
            budget = call.reasoning.budget_tokens or 0
            effort = "high" if budget > _MEDIUM_BUDGET_TOKENS else "medium"
            effort = "low" if budget <= _LOW_BUDGET_TOKENS else effort
            warnings.append(f"this model takes an effort, no reasoning budget; {effort!r} was sent")
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": effort}}

    def settle(self, inference: dict[str, Any], extra: dict[str, Any], warnings: list[str]) -> None:
        if extra.get("reasoningConfig", {}).get("maxReasoningEffort") != "high":
            return
        for name in ("temperature", "topP", "maxTokens"):
            if inference.pop(name, None) is not None:
                warnings.append(f"Nova takes no {name} together with high reasoning effort; it was not sent")
        if extra.pop("inferenceConfig", None) is not None:
            warnings.append("Nova takes no top_k together with high reasoning effort; it was not sent")
