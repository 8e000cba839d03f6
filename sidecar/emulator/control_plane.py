"""A small control plane on the same port: foundation models and inference profiles, as `bedrock` lists them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.traits import strip_profile, traits_of

_ACCOUNT = "123456789012"
_WHEN = "2026-01-15T00:00:00Z"
_GEOGRAPHIES = {
    "us": ("us-east-1", "us-east-2", "us-west-2"),
    "eu": ("eu-central-1", "eu-north-1", "eu-west-1", "eu-west-3"),
    "apac": ("ap-northeast-1", "ap-southeast-2"),
    "global": ("us-east-1", "eu-west-1", "ap-northeast-1"),
}
DEFAULT_MODELS = (
    "amazon.nova-micro-v1:0",
    "amazon.nova-lite-v1:0",
    "amazon.nova-pro-v1:0",
    "amazon.nova-premier-v1:0",
    "amazon.nova-2-lite-v1:0",
    "anthropic.claude-3-7-sonnet-20250219-v1:0",
    "anthropic.claude-sonnet-4-20250514-v1:0",
    "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "anthropic.claude-haiku-4-5-20251001-v1:0",
    "anthropic.claude-sonnet-4-6",
)


def answer_control_plane(
    parts: Sequence[str], *, region: str, models: Sequence[str], profiles: Mapping[str, str]
) -> dict[str, Any] | None:
    """Body for GET of `parts`, a decoded path; None where it is no path of the control plane. Raises Refusal."""
    known = list(models) or list(DEFAULT_MODELS)
    match list(parts):
        case ["foundation-models"]:
            return {"modelSummaries": [_model(m, region) for m in dict.fromkeys(map(strip_profile, known))]}
        case ["foundation-models", identifier]:
            base = strip_profile(identifier)
            if base not in map(strip_profile, known):
                raise Refusal("not_found", "Could not find the foundation model with the given identifier.")
            return {"modelDetails": _model(base, region)}
        case ["inference-profiles"]:
            return {"inferenceProfileSummaries": _list_profiles(known, profiles, region)}
        case ["inference-profiles", identifier]:
            wanted = identifier.rsplit("/", 1)[-1]
            for profile in _list_profiles(known, profiles, region):
                if profile["inferenceProfileId"] == wanted:
                    return profile
            raise Refusal("not_found", "Could not find the inference profile with the given identifier.")
    return None


def _model(model_id: str, region: str) -> dict[str, Any]:
    traits = traits_of(model_id)
    return {
        "modelArn": f"arn:aws:bedrock:{region}::foundation-model/{model_id}",
        "modelId": model_id,
        "modelName": model_id.partition(".")[2],
        "providerName": {"claude": "Anthropic", "nova": "Amazon"}.get(traits.family, model_id.partition(".")[0]),
        "inputModalities": ["TEXT", "IMAGE"],
        "outputModalities": ["TEXT"],
        "responseStreamingSupported": True,
        "customizationsSupported": [],
        "inferenceTypesSupported": ["ON_DEMAND", "INFERENCE_PROFILE"],
        "modelLifecycle": {"status": "ACTIVE"},
    }


def _list_profiles(models: Sequence[str], profiles: Mapping[str, str], region: str) -> list[dict[str, Any]]:
    geography = next((g for g, regions in _GEOGRAPHIES.items() if region in regions), "us")
    listed: list[dict[str, Any]] = []
    for base in dict.fromkeys(map(strip_profile, models)):
        for prefix in (geography, "global"):
            regions = _GEOGRAPHIES[prefix]
            listed.append(_profile(f"{prefix}.{base}", base, regions, region=region, kind="SYSTEM_DEFINED"))
    for name, model_id in profiles.items():
        identifier = name.rsplit("/", 1)[-1]
        listed.append(_profile(identifier, strip_profile(model_id), (region,), region=region, kind="APPLICATION"))
    return listed


def _profile(identifier: str, base: str, regions: Sequence[str], *, region: str, kind: str) -> dict[str, Any]:
    resource = "application-inference-profile" if kind == "APPLICATION" else "inference-profile"
    return {
        "inferenceProfileName": identifier,
        "description": f"Routes to {base}",
        "createdAt": _WHEN,
        "updatedAt": _WHEN,
        "inferenceProfileArn": f"arn:aws:bedrock:{region}:{_ACCOUNT}:{resource}/{identifier}",
        "inferenceProfileId": identifier,
        "models": [{"modelArn": f"arn:aws:bedrock:{r}::foundation-model/{base}"} for r in regions],
        "status": "ACTIVE",
        "type": kind,
    }
