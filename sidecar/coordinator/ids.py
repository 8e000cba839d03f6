"""The many names of one Bedrock model: bare id, inference profile, ARN.

Formats as in the Amazon Bedrock user guide, "Supported foundation models", "Inference profiles" and the service
authorization reference (resource types of Bedrock).
"""

import re
from typing import NamedTuple

# Geographic prefixes of cross-region inference profiles, and the regions they can be called from.
_AREAS: dict[str, tuple[str, ...]] = {
    "us": ("us-", "ca-"),
    "us-gov": ("us-gov-",),
    "eu": ("eu-",),
    "apac": ("ap-",),
    "ap": ("ap-",),
    "jp": ("ap-northeast-",),
    "au": ("ap-southeast-",),
    "ca": ("ca-",),
    "in": ("ap-south-",),
    "sa": ("sa-",),
    "me": ("me-",),
    "af": ("af-",),
    "il": ("il-",),
    "mx": ("mx-",),
}
PROFILE_PREFIXES = frozenset({"global", *_AREAS})

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):bedrock:(?P<region>[a-z0-9-]*):(?P<account>\d{12})?:"
    r"(?P<kind>[a-z-]+)/(?P<resource>[^\s]+)"
)
_ID = re.compile(r"[a-z0-9-]+\.[A-Za-z0-9._:-]+")
_SELF_NAMING = frozenset({"foundation-model", "inference-profile"})


class ModelRef(NamedTuple):
    """What a name says about itself.

    `base`: the foundation model's id, None where the name hides it (an application inference profile, a
    provisioned or custom model). `profile`: prefix of a cross-region profile, empty without one. `region`: only
    ARNs carry one. `invoke_id`: what to call.
    """

    invoke_id: str
    base: str | None
    profile: str = ""
    region: str | None = None

    @property
    def is_arn(self) -> bool:
        return self.invoke_id.startswith("arn:")


def parse(name: str) -> ModelRef | None:
    """`name` taken apart; None when it has not the form of a Bedrock id or ARN (an alias, say)."""
    if name.startswith("arn:"):
        return _parse_arn(name)
    if not _ID.fullmatch(name):
        return None
    profile, base = split_profile(name)
    return ModelRef(invoke_id=name, base=base, profile=profile)


def split_profile(model_id: str) -> tuple[str, str]:
    """`us.anthropic.x` as (`us`, `anthropic.x`); a bare id as (``, id)."""
    prefix, _, rest = model_id.partition(".")
    if prefix in PROFILE_PREFIXES and "." in rest:
        return prefix, rest
    return "", model_id


def profile_serves(profile: str, region: str) -> bool:
    """Whether a profile of this prefix can be called from `region`, going by geography alone."""
    if profile in ("", "global"):
        return True
    if profile == "us" and region.startswith("us-gov-"):
        return False
    return region.startswith(_AREAS.get(profile, ()))


def _parse_arn(name: str) -> ModelRef | None:
    found = _ARN.fullmatch(name)
    if found is None:
        return None
    region = found["region"] or None
    if found["kind"] not in _SELF_NAMING:
        return ModelRef(invoke_id=name, base=None, region=region)
    profile, base = split_profile(found["resource"])
    return ModelRef(invoke_id=name, base=base, profile=profile, region=region)
