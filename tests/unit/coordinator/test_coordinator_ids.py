import pytest

from sidecar.coordinator.ids import parse, profile_serves

ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    ("name", "base", "profile", "region"),
    [
        ("amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0", "", None),
        ("us.amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0", "us", None),
        ("us-gov.anthropic.claude-3-7-sonnet", "anthropic.claude-3-7-sonnet", "us-gov", None),
        ("global.openai.gpt-5.6-luna", "openai.gpt-5.6-luna", "global", None),
        ("deepseek.v3.2", "deepseek.v3.2", "", None),
        ("jp.anthropic.claude-sonnet-4-6", "anthropic.claude-sonnet-4-6", "jp", None),
        (
            "arn:aws:bedrock:eu-west-1::foundation-model/amazon.nova-lite-v1:0",
            "amazon.nova-lite-v1:0",
            "",
            "eu-west-1",
        ),
        (
            f"arn:aws:bedrock:us-east-1:{ACCOUNT}:inference-profile/us.amazon.nova-lite-v1:0",
            "amazon.nova-lite-v1:0",
            "us",
            "us-east-1",
        ),
        (
            f"arn:aws-us-gov:bedrock:us-gov-west-1:{ACCOUNT}:inference-profile/us-gov.anthropic.claude-x",
            "anthropic.claude-x",
            "us-gov",
            "us-gov-west-1",
        ),
        (f"arn:aws:bedrock:us-east-1:{ACCOUNT}:application-inference-profile/mi1dadi0g15f", None, "", "us-east-1"),
        (f"arn:aws:bedrock:us-east-1:{ACCOUNT}:provisioned-model/abc", None, "", "us-east-1"),
    ],
)
def test_names_are_taken_apart(name: str, base: str | None, profile: str, region: str | None) -> None:
    ref = parse(name)

    assert ref is not None
    assert (ref.invoke_id, ref.base, ref.profile, ref.region) == (name, base, profile, region)


@pytest.mark.parametrize("name", ["claude-sonnet", "", "arn:aws:s3:::bucket", "us.", "a b.c", "arn:aws:bedrock:x"])
def test_what_is_no_bedrock_name_is_none(name: str) -> None:
    assert parse(name) is None


@pytest.mark.parametrize(
    ("profile", "region", "serves"),
    [
        ("", "eu-west-1", True),
        ("global", "sa-east-1", True),
        ("us", "us-east-1", True),
        ("us", "us-gov-west-1", False),
        ("us-gov", "us-gov-west-1", True),
        ("eu", "us-east-1", False),
        ("apac", "ap-south-1", True),
        ("jp", "ap-south-1", False),
        ("au", "ap-southeast-2", True),
    ],
)
def test_profiles_are_called_from_their_own_geography(profile: str, region: str, serves: bool) -> None:
    assert profile_serves(profile, region) is serves
