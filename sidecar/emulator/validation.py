"""What Bedrock refuses a Converse body for, with the words it uses."""

from collections.abc import Mapping
from typing import Any

from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.traits import ModelTraits


def check(body: Mapping[str, Any], traits: ModelTraits, *, input_tokens: int) -> None:
    """Raises Refusal for the first thing that the service or the model would refuse."""
    _check_conversation(body)
    if input_tokens > traits.context_tokens:
        raise Refusal("overflow")


def _check_conversation(body: Mapping[str, Any]) -> None:
    messages = body.get("messages") or ()
    if not messages:
        raise Refusal("validation", "A conversation must have at least one message.")
    if messages[0].get("role") != "user":
        raise Refusal(
            "validation",
            "A conversation must start with a user message. Try again with a conversation that starts with a user "
            "message.",
        )
