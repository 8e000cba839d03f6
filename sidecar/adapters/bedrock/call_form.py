"""What an encoder hands to a transport, and what the decoder must know of it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class EncodedCall:
    """A call in Converse form: `params` are boto3's keyword arguments but for `modelId`; binary is `bytes`.

    `tool_names` turns names on the wire into those of the call, `keys` by such a name the names of properties.
    `output_tool` is the tool by which the answer's
    schema is enforced; its input is the answer, and with `is_wrapped` the property `value` of what is written.
    `takes_tools` is False where tools are sent only because the
    history holds tool blocks. `offers_tools`: the call has tools, so that the model may be told of a wrong call.
    """

    params: dict[str, Any]
    tool_names: dict[str, str] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    output_tool: str | None = None
    is_wrapped: bool = False
    takes_tools: bool = True
    offers_tools: bool = True
    splits_thinking: bool = False
    warnings: tuple[str, ...] = ()
