"""Anthropic's Claude on Bedrock, from 3.7 Sonnet on."""

from functools import lru_cache
from typing import Any

from sidecar.adapters.bedrock.converse import ConverseFamily
from sidecar.adapters.bedrock.messages import MessageRules
from sidecar.models.call import ModelCall
from sidecar.models.profile import Traits
from sidecar.models.request import Reasoning

MIN_BUDGET_TOKENS = 1024
_BUDGETS = {"low": 2048, "medium": 8192, "high": 24_576}
_MIN_TOP_P_THINKING = 0.95


@lru_cache
def _rules(prefill: bool, replays_reasoning: bool, points: bool) -> MessageRules:
    return MessageRules(
        allows_prefill=prefill,
        trims_prefill=True,
        replays_reasoning=replays_reasoning,
        needs_signature=True,
        allows_cache_points=points,
        # A document inside a result is taken, but the model does not see it.
        result_documents=False,
        beside_results=False,
        narrow_ids=True,
    )


class ClaudeFamily(ConverseFamily):
    def rules(self, traits: Traits) -> MessageRules:
        return _rules(traits.prefill, traits.replays_reasoning, "messages" in traits.cache_points)

    def reasoning(self, call: ModelCall, messages: list[dict[str, Any]], warnings: list[str]) -> dict[str, Any]:
        kind = call.candidate.profile.traits.reasoning
        if call.reasoning is None or kind not in ("budget", "adaptive"):
            return super().reasoning(call, messages, warnings)
        if call.reasoning.effort == "none":
            return {}
        if messages[-1]["role"] == "assistant":
            warnings.append("reasoning was left off: this model does not reason behind a prefilled answer")
            return {}
        if kind == "adaptive":
            return _adaptive(call.reasoning, warnings)
        return _budget(call, call.reasoning, messages, warnings)

    def sampling(
        self, inference: dict[str, Any], call: ModelCall, reasoning: dict[str, Any], warnings: list[str]
    ) -> None:
        super().sampling(inference, call, reasoning, warnings)
        if not reasoning:
            return
        if inference.get("temperature", 1.0) != 1.0:
            del inference["temperature"]
            warnings.append("temperature cannot be sent together with reasoning; it was not sent")
        if inference.get("topP", 1.0) < _MIN_TOP_P_THINKING:
            del inference["topP"]
            warnings.append(
                f"top_p below {_MIN_TOP_P_THINKING} cannot be sent together with reasoning; it was not sent"
            )

    def takes_top_k(self, reasoning: dict[str, Any]) -> bool:
        return not reasoning


def _adaptive(reasoning: Reasoning, warnings: list[str]) -> dict[str, Any]:
    effort = reasoning.effort
    if effort is None:
        budget = reasoning.budget_tokens or 0
        effort = "low" if budget <= _BUDGETS["low"] else "medium" if budget <= _BUDGETS["medium"] else "high"
        warnings.append(f"this model takes an effort, no reasoning budget; {effort!r} was sent")
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}


def _budget(
    call: ModelCall, reasoning: Reasoning, messages: list[dict[str, Any]], warnings: list[str]
) -> dict[str, Any]:
    """Thinking with a budget, which is part of max_tokens and smaller than it."""
    if _is_in_tool_loop_without_thought(messages):
        warnings.append("reasoning was left off: the tool calls under way were made without it")
        return {}
    wish = reasoning.budget_tokens or _BUDGETS[reasoning.effort or "low"]
    room = min(call.params.max_tokens or wish * 2, call.candidate.profile.max_output_tokens)
    budget = max(MIN_BUDGET_TOKENS, min(wish, room // 2 if wish >= room else wish))
    if budget >= room:
        warnings.append(f"reasoning was left off: it needs max_tokens above {MIN_BUDGET_TOKENS}")
        return {}
    if reasoning.budget_tokens is not None and budget != wish:
        warnings.append(f"the reasoning budget was set to {budget} tokens")
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _is_in_tool_loop_without_thought(messages: list[dict[str, Any]]) -> bool:
    """Claude wants the turn whose tool results are coming back to begin with its thinking."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            content = message["content"]
            return any("toolUse" in block for block in content) and "reasoningContent" not in content[0]
    return False
