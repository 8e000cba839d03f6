"""What all models of a vendor have in common in the shape of a request, known and unknown ones alike.

Sources: the Converse pages of the Amazon Bedrock user guide for `max_stops` and `long_cache`; refusals that users
report for the neighbours of tool results (Llama, Mistral) and for images inside them (OpenAI).
"""

from typing import Any

import msgspec

from sidecar.models.profile import Family, Traits

_MAX_STOPS_NOVA = 4
_MAX_STOPS_MISTRAL = 10


def with_vendor(traits: Traits, model_id: str, family: Family) -> Traits:
    """`traits` with those of the vendor that the id names."""
    more: dict[str, Any] = {}
    if family == "claude":
        # The hour-long cache came with the same models as native schemas.
        more["long_cache"] = traits.schema == "native" and bool(traits.cache_points)
    elif family == "nova":
        more["max_stops"] = _MAX_STOPS_NOVA
    elif "mistral." in model_id:
        more |= {"text_beside_results": False, "max_stops": _MAX_STOPS_MISTRAL}
    elif "llama" in model_id:
        more["text_beside_results"] = False
    elif "openai." in model_id:
        more["images_in_results"] = False
    return msgspec.structs.replace(traits, **more) if more else traits
