"""The questions of `doctor` about AWS credentials, endpoints and model access."""

import time
from collections.abc import AsyncIterator, Sequence

from sidecar.adapters.bedrock.diagnosis import find_credentials, find_endpoint, identify, reach
from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.cli.findings import Finding
from sidecar.config.settings import BedrockSettings, Settings
from sidecar.coordinator.catalogue import Catalogue
from sidecar.errors import AccessDenied, SidecarError
from sidecar.models.call import CallLimits, ModelCall
from sidecar.models.content import Message
from sidecar.models.holds import remedy_of
from sidecar.models.profile import Candidate, ModelProfile, Route
from sidecar.models.request import Params

_LIMITS = CallLimits(connect_s=5.0, first_token_s=30.0, idle_s=30.0, total_s=30.0)
_EGRESS = "allow outgoing connections to it (proxy, NetworkPolicy, security group), or correct the region"
_NOT_BEDROCK = "correct bedrock.endpoint_url: it is the address of bedrock-runtime, or of what stands in for it"
_ACCESS = "allow bedrock:InvokeModel for it in IAM, and model access in the Bedrock console where it is asked for"


async def findings(settings: Settings, models: Sequence[str]) -> AsyncIterator[Finding]:
    """Each finding as soon as it is known. `models` are called once each, with one token of output."""
    bedrock = settings.bedrock
    try:
        yield Finding("AWS credentials", "ok", await find_credentials(bedrock))
    except SidecarError as e:
        yield Finding("AWS credentials", "fail", e.for_operator, remedy_of(e.hold or ""))
    for region in bedrock.regions if bedrock.endpoint_url is None else bedrock.regions[:1]:
        name = f"Bedrock in {region}" if bedrock.endpoint_url is None else "Bedrock endpoint"
        try:
            endpoint = await find_endpoint(bedrock, region)
            elapsed_ms = await reach(endpoint, timeout_s=bedrock.connect_timeout_s)
        except SidecarError as e:
            yield Finding(name, "fail", e.for_operator, f"{remedy_of('unreachable')}; {_EGRESS}")
            continue
        try:
            await identify(endpoint, timeout_s=bedrock.connect_timeout_s)
            yield Finding(name, "ok", f"{endpoint.base}, connected in {elapsed_ms:.0f} ms")
        except SidecarError as e:
            yield Finding(name, "fail", e.for_operator, _NOT_BEDROCK)
            continue
        yield await _signed(bedrock, region, name)
    if not models:
        yield Finding("model access", "warn", "not tried", "try it by --call MODEL: one call, a few tokens")
        return
    async for finding in _calls(settings, models):
        yield finding


async def _signed(settings: BedrockSettings, region: str, name: str) -> Finding:
    """Whether AWS takes what calls are signed with: not expired, known, in time, and allowed."""
    check = f"signature to {name}"
    manager = BedrockManager(settings)
    await manager.start()
    try:
        await manager.prove(region, _LIMITS)
    except AccessDenied as e:
        return Finding(check, "fail", e.for_operator, _ACCESS)
    except SidecarError as e:
        return Finding(check, "fail", f"{e.hold}: {e.for_operator}", remedy_of(e.hold or ""))
    finally:
        await manager.close()
    return Finding(check, "ok", "credentials, signature and time are accepted")


async def _calls(settings: Settings, models: Sequence[str]) -> AsyncIterator[Finding]:
    try:
        catalogue = Catalogue(policy=settings.policy, regions=settings.bedrock.regions)
    except SidecarError as e:
        yield Finding("models", "fail", e.message, "correct [models] in the configuration")
        return
    manager = BedrockManager(settings.bedrock)
    await manager.start()
    try:
        for name in models:
            found = catalogue.resolve(name)
            if found is None or not found.profile.routes:
                remedy = "see `sidecar models --all`; other ids need an entry in [models]"
                yield Finding(f"model {name}", "fail", "no way to call it from these regions", remedy)
                continue
            for route in found.profile.routes:
                yield await _call(manager, name, found.profile, route)
    finally:
        await manager.close()


async def _call(manager: BedrockManager, name: str, profile: ModelProfile, route: Route) -> Finding:
    check = f"model {name} in {route.region}"
    call = ModelCall(
        candidate=Candidate(profile=profile, route=route),
        messages=(Message(role="user", content="Say yes."),),
        params=Params(max_tokens=1),
        limits=_LIMITS,
    )
    started = time.monotonic()
    try:
        reply = await manager.converse(call)
    except SidecarError as e:
        remedy = "see the message; try again where it is temporary" if e.hold is None else remedy_of(e.hold)
        remedy = _ACCESS if isinstance(e, AccessDenied) else remedy
        return Finding(check, "fail", f"{e.code}: {e.for_operator}", remedy)
    elapsed_ms = (time.monotonic() - started) * 1000
    tokens = reply.usage.input_tokens + reply.usage.output_tokens
    return Finding(check, "ok", f"{route.invoke_id} answered in {elapsed_ms:.0f} ms for {tokens} tokens")
