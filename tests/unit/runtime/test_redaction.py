"""What is taken out of a foreign text, and what stays."""

import pytest

from sidecar.errors import BusRefused, BusUnavailable, InvalidRequest
from sidecar.runtime.redaction import LONGEST_TEXT, redact, redact_value, told, without_credentials

ACCOUNT = "424242424242"
ARN = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:application-inference-profile/a1b2c3d4e5f6"
ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role/canary-role/canary-session"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYcanaryKEYx"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{ARN} is not ready", "the configured model is not ready"),
        (f"'{ARN}'", "'the configured model'"),
        (ARN.replace(":", "%3A").replace("/", "%2F"), "the configured model"),
        (f"ARN {ARN.upper()}", "ARN a resource of the operator"),
        (f"arn:aws-us-gov:bedrock:us-gov-west-1:{ACCOUNT}:guardrail/g1 blocks", "the configured guardrail blocks"),
        (f"{ROLE} may not", "the sidecar's role may not"),
        (f"arn:aws:s3:::bucket-of-{ACCOUNT}/key", "a resource of the operator"),
        ("arn:odd", "a resource of the operator"),
        (f"in account {ACCOUNT}.", "in account an account."),
        ("account 4242-4242-4242", "account an account"),
        ("AKIACANARY0123456789 and ASIACANARY0123456789", "an id and an id"),
        ("AROACANARY0123456789:canary-session", "an id"),
        ("assumed-role/canary-role/canary-session", "a name of the operator"),
        ("User: canary-user is", "a name of the operator is"),
        ("RoleSessionName=canary-session", "a name of the operator"),
        ("account_id: 'canary'", "a name of the operator'"),
        ("https://user:pass@proxy.corp:3128/x failed", "an address failed"),
        ("at http://10.1.2.3:8080/v1", "at an address"),
        ("Could not connect to vpce-0a1b2c3d4e5f60718-x.bedrock-runtime.us-east-1.vpce.amazonaws.com", None),
        ("host bedrock.internal:8443 ssl:default", "host an address ssl:default"),
        ("host canary-nats-0.nats.svc:4222", "host an address"),
        ("host canary.example.com", "host an address"),
        ("10.20.30.40 and 10.20.30.40:443", "an address and an address"),
        ("[fd00::1:2]:443 and fe80::a", "an address and an address"),
        ("through vpce-0a1b2c3d4e5f60718", "through a resource of the operator"),
        ("Bearer abcdef.ghi", "a credential"),
        (SECRET, "a credential"),
        ("NATS refused to store $KV.LLM_JOB.acme.j1: no", "NATS refused to store an internal subject: no"),
        ("no answer at _INBOX.abc.def", "no answer at an internal subject"),
        ("llm.v1.sys.replica.canary", "an internal subject"),
        ("stream KV_LLM_JOB is full", "stream a stream is full"),
    ],
)
def test_names_of_our_side_are_taken_out(text: str, shown: str | None) -> None:
    found = redact(text)
    assert "canary" not in found.text.lower()
    assert ACCOUNT not in found.text
    if shown is not None:
        assert found.text == shown
    is_secret = "credential" in found.text
    assert bool(found.withheld) is not is_secret
    assert redact(found.text).text == found.text


@pytest.mark.parametrize(
    "text",
    [
        'messages: roles must alternate between "user" and "assistant", but found multiple "user" roles in a row',
        "A conversation must start with a user message. Try again with a conversation that starts with one.",
        "The model returned the following errors: max_tokens: 9000 > 8192, which is the maximum allowed number of "
        "output tokens for anthropic.claude-3-5-sonnet-20241022-v2:0",
        "Invocation of model ID us.anthropic.claude-sonnet-4-5-20250929-v1:0 with on-demand throughput isn’t "
        "supported.",
        "Too many tokens per day, please wait before trying again.",
        "messages.0.content.1: tool_use ids were found without tool_result blocks: toolu_bdrk_01A09q90qw90lq91783",
        "#/toolConfig/tools/0/toolSpec/inputSchema/json: required key [type] not found",
        "See https://docs.aws.amazon.com/bedrock/latest/userguide/inference.html for more.",
        "The value 1234567890123 at 12:30:45 is not 3.14159 or 1.2.3",
        "output was not valid: 'user/assistant' is no role",
        "",
    ],
)
def test_what_says_nothing_of_us_stays_as_it_is(text: str) -> None:
    assert redact(text) == (text, ())


def test_a_long_or_hostile_text_is_one_bounded_line() -> None:
    found = redact("a.b" * 100_000 + "\n\x1b[31m{}")
    assert len(found.text) <= LONGEST_TEXT
    assert redact('one\r\n{"level":"info"}\x00two').text == 'one {"level":"info"} two'
    for unit in ("a.", "1.", ":1", "arn:", "a-", "AKIA", "://", "a+/", "user/", "=:"):
        assert len(redact(unit * 10_000).text) <= 20 * LONGEST_TEXT


def test_details_are_redacted_by_their_parts() -> None:
    value = {"a": [ARN, 1, None, True], f"{ACCOUNT}": {"b": (ROLE, 2.5)}}
    assert redact_value(value) == {
        "a": ["the configured model", 1, None, True],
        "an account": {"b": ["the sidecar's role", 2.5]},
    }


def test_what_the_bus_says_is_told_without_its_subjects_and_servers() -> None:
    text = "NATS failed at storing $KV.LLM_JOB.acme.j1: 10.0.0.7:4222 is away"
    for kind in (BusRefused, BusUnavailable):
        assert told(kind(text)) == "NATS failed at storing an internal subject: an address is away"
    assert told(InvalidRequest("10.0.0.7 is no name")) == "10.0.0.7 is no name"


def test_the_operators_text_keeps_names_and_no_credentials() -> None:
    said = without_credentials(f"{ROLE} by https://user:canary@proxy:3128\n with {SECRET} and Bearer canary.x")
    assert said == f"{ROLE} by https://proxy:3128 with a credential and a credential"
