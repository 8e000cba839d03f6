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
