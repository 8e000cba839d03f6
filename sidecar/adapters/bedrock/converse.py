"""A call in Converse form, for any family; `claude.py` and `nova.py` override what is theirs.

What differs between models is read from `ModelProfile.traits`, never from their ids. Whatever cannot be sent as
it was asked for is named in the warnings, or raises InvalidRequest with its path. The same call always gives the
same bytes, since prompt caches go by them.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec

from sidecar.adapters.bedrock.caching import place_cache_points
from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.last_look import last_look
from sidecar.adapters.bedrock.messages import MessageEncoder, MessageRules
from sidecar.adapters.bedrock.names import ToolNames
from sidecar.adapters.bedrock.output import OutputPlan, in_words, plan_output
from sidecar.adapters.bedrock.schema import SchemaForms
from sidecar.adapters.bedrock.tools import names_in, plan_tools
from sidecar.models.call import ModelCall
from sidecar.models.profile import Traits

MAX_METADATA = 16
_METADATA_TEXT = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,\-.]{0,256}\Z")
_SCHEMA_NAME = "answer"


@lru_cache
def _rules(prefill: bool, replays_reasoning: bool, points: bool) -> MessageRules:
    return MessageRules(
        allows_prefill=prefill,
        replays_reasoning=replays_reasoning,
        allows_cache_points=points,
    )


class ConverseFamily:
    """The generic form. One instance serves all calls; it keeps nothing."""

    def encode(self, call: ModelCall, *, is_stream: bool, forms: SchemaForms | None = None) -> EncodedCall:
        traits = call.candidate.profile.traits
        warnings: list[str] = []
        names = ToolNames(names_in(call), allows_hyphens=traits.hyphens_in_tool_names)
        messages = MessageEncoder(self.rules(traits), names, warnings).encode(call.messages)
        reasoning = self.reasoning(call, messages, warnings)
        can_force = self.can_force(traits, bool(reasoning))
        output = plan_output(call, can_force=can_force, warnings=warnings, forms=forms)
        by_tool = self.tool_schema(output) if output is not None and output.kind == "tool" else None
        plan = plan_tools(call, names, output=by_tool, can_force=can_force, warnings=warnings)
        params: dict[str, Any] = {"messages": messages}
        self._system(params, call, output, warnings)
        self._inference(params, call, reasoning, warnings)
        if plan.config is not None:
            params["toolConfig"] = plan.config
        if output is not None and output.kind == "native":
            params["outputConfig"] = _output_config(output)
        self._extras(params, call, is_stream=is_stream, warnings=warnings)
        if call.cache == "auto":
            place_cache_points(params, traits)
        keys = last_look(params, call, names.back, warnings)
        return EncodedCall(
            params=params,
            tool_names=names.back,
            keys=keys,
            output_tool=plan.output_tool,
            is_wrapped=output is not None and output.is_wrapped,
            takes_tools=plan.takes_tools,
            offers_tools=bool(call.tools),
            splits_thinking=traits.reasoning == "inline",
            warnings=tuple(warnings),
        )

    def rules(self, traits: Traits) -> MessageRules:
        return _rules(traits.prefill, traits.replays_reasoning, "messages" in traits.cache_points)

    def can_force(self, traits: Traits, is_reasoning: bool) -> bool:
        """Whether tool_choice `any` or a name may be sent."""
        return traits.forced_tool == "yes" or (traits.forced_tool == "not_with_reasoning" and not is_reasoning)

    def reasoning(self, call: ModelCall, messages: list[dict[str, Any]], warnings: list[str]) -> dict[str, Any]:
        """Fields of `additionalModelRequestFields` that turn reasoning on; none where it is off."""
        if call.reasoning is None:
            return {}
        kind = call.candidate.profile.traits.reasoning
        if call.reasoning.effort == "none":
            if kind in ("always", "inline"):
                warnings.append("this model's reasoning cannot be turned off")
            return {}
        if kind == "always":
            warnings.append("this model reasons as it sees fit; the wish for reasoning was not sent")
        else:
            warnings.append("this model does not reason on request; the wish for reasoning was not sent")
        return {}

    def sampling(
        self, inference: dict[str, Any], call: ModelCall, reasoning: dict[str, Any], warnings: list[str]
    ) -> None:
        """Temperature and top_p, as far as the model takes them."""
        params, kind = call.params, call.candidate.profile.traits.sampling
        if kind == "none":
            for name in ("temperature", "top_p"):
                if getattr(params, name) is not None:
                    warnings.append(f"this model takes no {name}; it was not sent")
            return
        if params.temperature is not None:
            inference["temperature"] = params.temperature
        if params.top_p is not None:
            if kind == "one" and params.temperature is not None:
                warnings.append("this model takes temperature or top_p; top_p was not sent")
            else:
                inference["topP"] = params.top_p

    def top_k(self, value: int) -> dict[str, Any]:
        """`top_k` as a field of `additionalModelRequestFields`."""
        return {"top_k": value}

    def tool_schema(self, output: OutputPlan) -> dict[str, Any]:
        """The schema of an answer's tool as the family reads it."""
        return output.schema

    def _system(
        self, params: dict[str, Any], call: ModelCall, output: OutputPlan | None, warnings: list[str]
    ) -> None:
        parts = [call.system] if call.system and call.system.strip() else []
        if output is not None and output.kind == "words":
            parts.append(in_words(output.schema))
        if not parts:
            return
        if call.candidate.profile.traits.system_prompt:
            params["system"] = [{"text": part} for part in parts]
            return
        warnings.append("this model takes no system prompt; it was sent at the head of the first message")
        first = params["messages"][0]
        head = [{"text": part} for part in parts]
        if first["role"] == "user":
            first["content"] = head + first["content"]
        else:
            params["messages"].insert(0, {"role": "user", "content": head})

    def _inference(
        self, params: dict[str, Any], call: ModelCall, reasoning: dict[str, Any], warnings: list[str]
    ) -> None:
        asked, profile = call.params, call.candidate.profile
        inference: dict[str, Any] = {}
        if asked.max_tokens is not None:
            inference["maxTokens"] = min(asked.max_tokens, profile.max_output_tokens)
            if asked.max_tokens > profile.max_output_tokens:
                warnings.append(
                    f"this model writes at most {profile.max_output_tokens} tokens; max_tokens was lowered"
                )
        self.sampling(inference, call, reasoning, warnings)
        if asked.stop:
            inference["stopSequences"] = list(asked.stop)
        extra = dict(reasoning)
        if asked.top_k is not None:
            if not profile.traits.top_k:
                warnings.append("this model takes no top_k; it was not sent")
            elif not self.takes_top_k(reasoning):
                warnings.append("top_k cannot be sent together with reasoning; it was not sent")
            else:
                extra |= self.top_k(asked.top_k)
        self.settle(inference, extra, warnings)
        if inference:
            params["inferenceConfig"] = inference
        if extra:
            params["additionalModelRequestFields"] = extra

    def takes_top_k(self, reasoning: dict[str, Any]) -> bool:
        return True

    def settle(self, inference: dict[str, Any], extra: dict[str, Any], warnings: list[str]) -> None:
        """A last look at the numbers, where some of them bound others."""

    def _extras(self, params: dict[str, Any], call: ModelCall, *, is_stream: bool, warnings: list[str]) -> None:
        if call.guardrail is not None:
            params["guardrailConfig"] = {
                "guardrailIdentifier": call.guardrail.id,
                "guardrailVersion": call.guardrail.version,
                "trace": "enabled",
            }
            if is_stream:
                # Nothing reaches the client that the guardrail has not seen.
                params["guardrailConfig"]["streamProcessingMode"] = "sync"
        if call.service_tier != "auto":
            if call.service_tier in call.candidate.profile.service_tiers:
                params["serviceTier"] = {"type": call.service_tier}
            else:
                warnings.append(f"this model has no service tier {call.service_tier!r}; it was not sent")
        self._metadata(params, call, warnings)

    def _metadata(self, params: dict[str, Any], call: ModelCall, warnings: list[str]) -> None:
        kept = {
            key: value
            for key, value in sorted(call.request_metadata.items())
            if key and _METADATA_TEXT.match(key) and _METADATA_TEXT.match(value)
        }
        kept = dict(list(kept.items())[:MAX_METADATA])
        if len(kept) < len(call.request_metadata):
            left_out = sorted(set(call.request_metadata) - set(kept))
            warnings.append(f"not sent as request metadata: {', '.join(left_out)}")
        if kept:
            params["requestMetadata"] = kept


def _output_config(output: OutputPlan) -> dict[str, Any]:
    # Key order is the client's, so that the same schema gives the same bytes.
    text = msgspec.json.encode(output.schema).decode()
    return {
        "textFormat": {
            "type": "json_schema",
            "structure": {"jsonSchema": {"schema": text, "name": _SCHEMA_NAME}},
        }
    }
