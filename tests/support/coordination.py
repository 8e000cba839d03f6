"""Small catalogues and requests for tests of the coordinator."""

from typing import Any

from sidecar.config.settings import BedrockSettings, ModelPolicy, Policy, TenantPolicy
from sidecar.coordinator.catalogue import InferenceRow, ModelRow
from sidecar.coordinator.service import Coordinator, Selection
from sidecar.models.content import Message
from sidecar.models.profile import Candidate, ModelProfile, Price, Route, Traits
from sidecar.models.request import JobRequest

NOW = 1_800_000_000.0
EVERYBODY = TenantPolicy()
HELLO = (Message(role="user", content="hello"),)


def request(**fields: Any) -> JobRequest:
    return JobRequest(messages=HELLO, **fields)


def row(alias: str, **fields: Any) -> ModelRow:
    """A model offered on demand in two regions of the United States."""
    ways = (InferenceRow(profile="", regions=("us-east-1", "us-west-2")),)
    plain: dict[str, Any] = {
        "alias": alias,
        "model_id": f"acme.{alias}-v1:0",
        "family": "other",
        "name": alias,
        "traits": Traits(),
        "inference": ways,
        "kinds": ("chat",),
        "context_tokens": 100_000,
        "max_output_tokens": 8_000,
        "capabilities": ("tools", "streaming"),
        "prices": (Price(input=1.0, output=5.0),),
    }
    return ModelRow(**{**plain, **fields})


def coordinator(
    *rows: ModelRow,
    regions: tuple[str, ...] = ("us-east-1",),
    models: dict[str, ModelPolicy] | None = None,
) -> Coordinator:
    return Coordinator(
        policy=Policy(models=models or {}), bedrock=BedrockSettings(regions=regions), rows=rows or None
    )


def select(subject: Coordinator, job: JobRequest, **fields: Any) -> Selection:
    plain: dict[str, Any] = {"tenant": EVERYBODY, "input_tokens": 100, "job_class": "standard", "now": NOW}
    return subject.candidates(job, **{**plain, **fields})


def aliases(selection: Selection) -> list[str]:
    return [candidate.profile.alias for candidate in selection.candidates]


def candidate(pool: str, *, model: str = "m", context_tokens: int = 100_000) -> Candidate:
    """A candidate whose pool is `<pool>@us-east-1`."""
    profile = ModelProfile(
        alias=model, model_id=f"acme.{model}", family="other", name=model, context_tokens=context_tokens
    )
    return Candidate(profile=profile, route=Route(region="us-east-1", invoke_id=pool))
