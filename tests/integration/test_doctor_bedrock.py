"""`doctor` at endpoints that stand in for Bedrock, and at those that do not."""

import pytest

from sidecar.adapters.bedrock.diagnosis import identify
from sidecar.adapters.bedrock.endpoints import parse_endpoint
from sidecar.cli.doctor_bedrock import findings
from sidecar.config.settings import BedrockSettings, Settings
from tests.support.emulator import Emulator
from tests.support.raw_bedrock import raw_bedrock, response, sends

STRANGERS = {
    "text/html": response(b"<html>Sign in</html>", content_type="text/html"),
    "application/json": response({"data": []}),
    "HTTP 302": response(b"", status=302, location="https://login.example"),
    "HTTP 404 and text/html": response(b"<html>no</html>", status=404, content_type="text/html"),
    "HTTP 404 and application/json": response({"detail": "Not Found"}, status=404),
}


async def test_an_endpoint_that_is_not_bedrock_is_told_so() -> None:
    async with raw_bedrock() as raw:
        for words, said in STRANGERS.items():
            raw.script = sends(said)
            settings = Settings(bedrock=BedrockSettings(endpoint_url=raw.url))
            found = {finding.check: finding async for finding in findings(settings, [])}
            assert found["Bedrock endpoint"].level == "fail"
            assert "is not Bedrock" in found["Bedrock endpoint"].text
            assert words in found["Bedrock endpoint"].text
            assert "endpoint_url" in found["Bedrock endpoint"].remedy


@pytest.mark.parametrize("kind", ["MissingAuthenticationTokenException", "UnknownOperationException"])
async def test_bedrocks_refusal_is_enough(kind: str) -> None:
    async with raw_bedrock() as raw:
        raw.script = sends(response({"message": "no"}, status=403, x_amzn_errortype=kind))
        await identify(parse_endpoint(raw.url), timeout_s=10)
    async with Emulator() as emulator:
        await identify(parse_endpoint(emulator.url), timeout_s=10)


SIGNED = {
    ("ExpiredTokenException", "The security token is expired"): ("credentials_expired", "aws sso login"),
    ("UnrecognizedClientException", "The security token is invalid."): ("credentials_invalid", "is active"),
    ("SignatureDoesNotMatch", "The signature does not match"): ("signature_refused", "secret access key"),
    ("InvalidSignatureException", "Signature expired: 20261201T000000Z is now earlier"): ("clock_skewed", "NTP"),
    ("AccessDeniedException", "x is not authorized to perform y"): ("not authorized", "bedrock:InvokeModel"),
}


@pytest.mark.parametrize(("said", "told"), SIGNED.items(), ids=lambda pair: pair[0])
async def test_expired_unknown_skewed_and_denied_are_told_apart_with_their_remedies(
    said: tuple[str, str], told: tuple[str, str]
) -> None:
    async with raw_bedrock() as raw:
        raw.script = sends(response({"message": said[1]}, status=403, x_amzn_errortype=said[0]))
        settings = Settings(bedrock=BedrockSettings(endpoint_url=raw.url))
        found = {finding.check: finding async for finding in findings(settings, [])}
    finding = found["signature to Bedrock endpoint"]
    assert finding.level == "fail"
    assert told[0] in finding.text
    assert told[1] in finding.remedy


async def test_an_endpoint_that_nobody_answers_at_and_one_that_takes_the_signature() -> None:
    settings = Settings(bedrock=BedrockSettings(endpoint_url="http://127.0.0.1:9"))
    found = {finding.check: finding async for finding in findings(settings, [])}
    assert "check DNS, routes, proxy and firewall" in found["Bedrock endpoint"].remedy
    async with Emulator() as emulator:
        settings = Settings(bedrock=BedrockSettings(endpoint_url=emulator.url))
        found = {finding.check: finding async for finding in findings(settings, [])}
        assert found["signature to Bedrock endpoint"].level == "ok"
