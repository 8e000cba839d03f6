"""What a model is called before tenants: an ARN shows nobody's account, and prices are found by either name."""

import pytest

from sidecar.config.settings import BedrockSettings, ModelPolicy, Policy, TenantPolicy
from sidecar.coordinator.service import Coordinator
from sidecar.models.content import Message
from sidecar.models.profile import public_id
from sidecar.models.request import JobRequest
from sidecar.models.result import Usage

ACCOUNT = "424242424242"
OWN = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:application-inference-profile/canary"
SYSTEMS = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.mark.parametrize(
    ("invoke_id", "shown"),
    [
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (OWN, "alias"),
        (SYSTEMS, "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0"),
        (f"arn:aws:bedrock:us-east-1:{ACCOUNT}:provisioned-model/canary", "alias"),
        (f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/canary", "alias"),
        ("arn:", "alias"),
    ],
)
def test_an_arn_is_shown_by_the_id_in_it_or_the_alias(invoke_id: str, shown: str) -> None:
    assert public_id(invoke_id, "alias") == shown


@pytest.mark.parametrize("arn", [OWN, SYSTEMS])
def test_no_list_or_choice_shows_the_account_and_prices_are_found(arn: str) -> None:
    policy = Policy(models={"own": ModelPolicy(id=arn, base="claude-sonnet-4-5")})
    coordinator = Coordinator(policy=policy, bedrock=BedrockSettings())
    tenant = TenantPolicy()
    assert ACCOUNT not in str(coordinator.models(tenant, now=0.0))
    request = JobRequest(model="own", messages=(Message(role="user", content="hi"),))
    chosen = coordinator.candidates(request, tenant=tenant, input_tokens=1, job_class="standard", now=0.0)
    candidate = chosen.candidates[0]
    assert candidate.route.invoke_id == arn
    assert ACCOUNT not in f"{candidate.public_pool} {chosen.rejected} {chosen.warnings} {chosen.reason}"
    usage = Usage(input_tokens=1000, output_tokens=1000)
    prices = [coordinator.price_on(pool, usage) for pool in (candidate.route.pool, candidate.public_pool)]
    assert None not in prices
    assert len(set(prices)) == 1
