"""What single model families refuse, with the words they use: each rule is one function of a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from sidecar.emulator.answer import sign_reasoning
from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.traits import ModelTraits

MIN_THINKING_TOKENS = 1_024
_FROM_MODEL = "The model returned the following errors: "
_MALFORMED = _FROM_MODEL + "Malformed input request: {}, please reformat your input and try again."
_OFFICE_FORMATS = ("pdf", "docx")

Body = Mapping[str, Any]


def check_quirks(body: Body, traits: ModelTraits, *, input_tokens: int) -> None:
    """Raises Refusal for the first thing that this model does not take."""
    _check_context(body, traits, input_tokens)
    for check in _RULES.get(traits.family, ()):
        check(body, traits)
    if any("text" not in block for message in body.get("messages") or () for block in message["content"]):
        for check in _RULES_ABOUT_BLOCKS.get(traits.family, ()):
            check(body, traits)


def _check_context(body: Body, traits: ModelTraits, input_tokens: int) -> None:
    limit = traits.context_tokens
    max_tokens = (body.get("inferenceConfig") or {}).get("maxTokens") or 0
    if max_tokens > traits.max_output_tokens:
        most = traits.max_output_tokens
        raise Refusal(
            "validation",
            f"The maximum tokens you requested exceeds the model limit of {most}. Try again with a maximum tokens "
            f"value that is lower than {most}.",
        )
    if input_tokens > limit:
        raise Refusal("overflow", _overflow_message(traits, input_tokens))
    if traits.is_claude and (3, 7) <= traits.version < (4, 5) and input_tokens + max_tokens > limit:
        raise Refusal(
            "overflow",
            f"{_FROM_MODEL}input length and `max_tokens` exceed context limit: {input_tokens} + {max_tokens} > "
            f"{limit}, decrease input length or `max_tokens` and try again",
        )


def _overflow_message(traits: ModelTraits, input_tokens: int) -> str | None:
    if traits.is_claude and traits.version >= (3, 7):
        return f"{_FROM_MODEL}prompt is too long: {input_tokens} tokens > {traits.context_tokens} maximum"
    if traits.is_nova:
        return (
            f"{_FROM_MODEL}Input Tokens Exceeded: Number of input tokens exceeds maximum length. "
            "Please update the input to try again."
        )
    return None


def _refuse(message: str) -> NoReturn:
    raise Refusal("validation", _FROM_MODEL + message)


def _last_message(body: Body) -> Body:
    messages: Sequence[Body] = body.get("messages") or [{}]
    return messages[-1]


def _blocks(body: Body, kind: str) -> Iterator[tuple[str, Any]]:
    """(path with dots, block) for every block of that kind."""
    for index, message in enumerate(body.get("messages") or ()):
        for position, block in enumerate(message.get("content") or ()):
            if kind in block:
                yield f"messages.{index}.content.{position}", block[kind]


def _results_with(body: Body, kind: str) -> Iterator[tuple[str, Any]]:
    """(path of the tool result, block) for every block of that kind inside a tool result."""
    for path, result in _blocks(body, "toolResult"):
        for block in result.get("content") or ():
            if kind in block:
                yield path, block[kind]


def _is_in_s3(block: Body) -> bool:
    return "s3Location" in (block.get("source") or {})


def _thinking(body: Body) -> Mapping[str, Any]:
    fields = body.get("additionalModelRequestFields") or {}
    thinking = fields.get("thinking") or fields.get("reasoning_config") or {}
    return thinking if isinstance(thinking, Mapping) else {}


def _is_forced(body: Body) -> bool:
    choice = (body.get("toolConfig") or {}).get("toolChoice") or {}
    return "any" in choice or "tool" in choice


def _claude_sampling(body: Body, traits: ModelTraits) -> None:
    config = body.get("inferenceConfig") or {}
    fields = body.get("additionalModelRequestFields") or {}
    given = [
        name
        for name, is_given in (
            ("temperature", "temperature" in config),
            ("top_p", "topP" in config),
            ("top_k", "top_k" in fields),
        )
        if is_given
    ]
    if traits.version >= (4, 7) and given:
        _refuse(f"`{given[0]}` is deprecated for this model.")
    if traits.version >= (4, 5) and {"temperature", "top_p"} <= set(given):
        _refuse(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        )
    if _thinking(body).get("type") == "enabled" and config.get("temperature", 1) != 1:
        _refuse("`temperature` may only be set to 1 when thinking is enabled.")


def _claude_thinking(body: Body, traits: ModelTraits) -> None:
    thinking = _thinking(body)
    if thinking.get("type") != "enabled":
        return
    if traits.version >= (4, 7):
        _refuse(
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" '
            'and "output_config.effort" to control thinking behavior.',
        )
    budget = thinking.get("budget_tokens", 0)
    if budget < MIN_THINKING_TOKENS:
        _refuse(
            f"thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_THINKING_TOKENS}",
        )
    max_tokens = (body.get("inferenceConfig") or {}).get("maxTokens")
    if max_tokens is not None and max_tokens <= budget:
        _refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
    _check_last_turn(body)


def _check_last_turn(body: Body) -> None:
    """With thinking, an answer that called tools has to be replayed with its reasoning first."""
    messages = body.get("messages") or ()
    for index in range(len(messages) - 1, -1, -1):
        content: Sequence[Body] = messages[index].get("content") or [{}]
        if messages[index].get("role") != "assistant":
            continue
        if any("toolUse" in block for block in content) and "reasoningContent" not in content[0]:
            _refuse(
                f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but "
                "found `tool_use`. When `thinking` is enabled, a final `assistant` message must start with a "
                "thinking block (preceeding the lastmost set of `tool_use` and `tool_result` blocks).",
            )
        return


def _claude_signatures(body: Body, traits: ModelTraits) -> None:
    for path, reasoning in _blocks(body, "reasoningContent"):
        text = reasoning.get("reasoningText")
        if text is None:
            continue
        signature = text.get("signature")
        if not signature:
            _refuse(f"{path}.thinking.signature: Field required")
        ours = sign_reasoning(text.get("text", ""))
        if len(signature) == len(ours) and signature[:4] == ours[:4] and signature != ours:
            _refuse(f"{path}: Invalid `signature` in `thinking` block")


def _claude_prefill(body: Body, traits: ModelTraits) -> None:
    last = _last_message(body)
    if last.get("role") != "assistant":
        return
    if traits.version >= (4, 6):
        _refuse(
            "This model does not support assistant message prefill. The conversation must end with a "
            "user message.",
        )
    content: Sequence[Body] = last.get("content") or [{}]
    text = content[-1].get("text", "")
    if text != text.rstrip():
        _refuse(
            "messages: final assistant content cannot end with trailing whitespace",
        )


def _claude_tool_choice(body: Body, traits: ModelTraits) -> None:
    if _is_forced(body) and (_thinking(body).get("type") in ("enabled", "adaptive") or traits.version >= (5, 0)):
        _refuse("Thinking may not be enabled when tool_choice forces tool use.")


def _claude_media(body: Body, traits: ModelTraits) -> None:
    for _ in (*_blocks(body, "video"), *_results_with(body, "video")):
        raise Refusal(
            "validation",
            "This model doesn't support the video content block that you provided. Update the content block and "
            "try again.",
        )
    for _, image in (*_blocks(body, "image"), *_results_with(body, "image")):
        if _is_in_s3(image):
            raise Refusal("validation", "This model doesn't support the s3Uri field. Remove s3Uri and try again.")
    for path, document in _blocks(body, "document"):
        if _is_in_s3(document):
            _refuse(f"{path}.document.source.type: Field required")


def _nova_tools(body: Body, traits: ModelTraits) -> None:
    for index, tool in enumerate((body.get("toolConfig") or {}).get("tools") or ()):
        if "cachePoint" in tool:
            where = f"#/toolConfig/tools/{index}: extraneous key [cachePoint] is not permitted"
            raise Refusal("validation", _MALFORMED.format(where))
        if "-" in tool.get("toolSpec", {}).get("name", ""):
            raise Refusal(
                "model_error",
                "Model produced invalid sequence as part of ToolUse. Please refer to the model tool use "
                "troubleshooting guide.",
            )


def _nova_reasoning(body: Body, traits: ModelTraits) -> None:
    if traits.version >= (2, 0):
        return
    for path, _ in _blocks(body, "reasoningContent"):
        where = f"#/{path.replace('.', '/')}: extraneous key [reasoningContent] is not permitted"
        raise Refusal("validation", _MALFORMED.format(where))


def _nova_first_turn(body: Body, traits: ModelTraits) -> None:
    messages: Sequence[Body] = body.get("messages") or [{"role": "user"}]
    if messages[0].get("role") != "user":
        raise Refusal(
            "validation",
            "A conversation must start with a user message. Try again with a conversation that starts with a user "
            "message.",
        )


def _nova_results(body: Body, traits: ModelTraits) -> None:
    documents = (path for path, d in _results_with(body, "document") if d.get("format") in _OFFICE_FORMATS)
    videos = (path for path, video in _results_with(body, "video") if _is_in_s3(video))
    for path in (*documents, *videos):
        where = f"#/{path.replace('.', '/')}: extraneous key [toolResult] is not permitted"
        raise Refusal("validation", _MALFORMED.format(where))


_Rules = dict[str, tuple[Callable[[Body, ModelTraits], None], ...]]
_RULES: _Rules = {
    "claude": (_claude_sampling, _claude_thinking, _claude_prefill, _claude_tool_choice),
    "nova": (_nova_first_turn, _nova_tools),
}
_RULES_ABOUT_BLOCKS: _Rules = {
    "claude": (_claude_signatures, _claude_media),
    "nova": (_nova_reasoning, _nova_results),
}
