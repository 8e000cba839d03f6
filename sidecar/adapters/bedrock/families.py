"""Which family encodes a call."""

from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.claude import ClaudeFamily
from sidecar.adapters.bedrock.converse import ConverseFamily
from sidecar.adapters.bedrock.nova import NovaFamily
from sidecar.adapters.bedrock.schema import SchemaForms
from sidecar.models.call import ModelCall
from sidecar.models.profile import Family

_FAMILIES: dict[Family, ConverseFamily] = {
    "claude": ClaudeFamily(),
    "nova": NovaFamily(),
    "other": ConverseFamily(),
}


def encode_call(call: ModelCall, *, is_stream: bool, forms: SchemaForms | None = None) -> EncodedCall:
    """Raises InvalidRequest, with its path, for what the model's family cannot take in any form.

    `forms` are those of the call's output schema, where they were made before.
    """
    return _FAMILIES[call.candidate.profile.family].encode(call, is_stream=is_stream, forms=forms)
