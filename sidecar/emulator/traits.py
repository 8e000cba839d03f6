"""What a model id tells: its family, generation, and the limits and quirks that follow from them."""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

_REGION_PREFIX = re.compile(r"^(?:us-gov|us|eu|apac|jp|au|ca|sa|global)\.(?=[a-z0-9-]+\.)")
_CLAUDE_OLD = re.compile(r"claude-(\d)-(\d)-(?:sonnet|haiku|opus)")
_CLAUDE_NEW = re.compile(r"claude-[a-z]+-(\d)(?:-(\d{1,2}))?(?:[-:]|$)")
_NOVA = re.compile(r"nova-(?:(\d)-)?(?:micro|lite|pro|premier|omni)")

_VENDORS = {"llama": "llama", "mistral": "mistral.", "openai": "openai."}

DEFAULT_CONTEXT_TOKENS = 200_000
_NOVA_CONTEXT = {"micro": 128_000, "premier": 1_000_000, "nova-2": 1_000_000}

_NOVA_OUTPUT = {"nova-2": 65_535, "premier": 32_000}


class ModelTraits(NamedTuple):
    """`version` is (major, minor), (0, 0) where the id does not say; tokens are token counts."""

    base_id: str
    family: str
    version: tuple[int, int]
    context_tokens: int
    max_output_tokens: int

    @property
    def is_claude(self) -> bool:
        return self.family == "claude"

    @property
    def is_nova(self) -> bool:
        return self.family == "nova"


def strip_profile(model_id: str) -> str:
    """The base id behind a system inference profile's id, an inference profile's or a foundation model's ARN."""
    plain = unquote(model_id)
    if plain.startswith("arn:"):
        plain = plain.rsplit("/", 1)[-1]
    return _REGION_PREFIX.sub("", plain)


@lru_cache(maxsize=1024)
def traits_of(model_id: str) -> ModelTraits:
    """Traits of a model, inference profile or ARN, from its name alone."""
    base_id = strip_profile(model_id)
    old, new = _CLAUDE_OLD.search(base_id), _CLAUDE_NEW.search(base_id)
    if "claude" in base_id:
        match = old or new
        version = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
        output = 128_000 if version >= (4, 6) else 64_000 if version >= (3, 7) else 8_192
        return ModelTraits(base_id, "claude", version, DEFAULT_CONTEXT_TOKENS, output)
    nova = _NOVA.search(base_id)
    if nova:
        context = next((tokens for part, tokens in _NOVA_CONTEXT.items() if part in base_id), 300_000)
        output = next((tokens for part, tokens in _NOVA_OUTPUT.items() if part in base_id), 10_000)
        return ModelTraits(base_id, "nova", (int(nova[1] or 1), 0), context, output)
    vendor = next((name for name, mark in _VENDORS.items() if mark in base_id), "other")
    return ModelTraits(base_id, vendor, (0, 0), 128_000, 8_192)
