"""Tools: how a provider registers one, and what the registry keeps."""

from typing import Annotated, Any

import msgspec

from sidecar.models.base import Name, Open, Strict, Timestamp, matching
from sidecar.models.rules import check_depth

_NUMBER = "(0|[1-9][0-9]*)"
SEMVER_PATTERN = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
SemVer = Annotated[str, matching(SEMVER_PATTERN, "a semantic version such as 1.2.0", max_length=64)]


class ToolRegistration(Strict, frozen=True, kw_only=True):
    """Payload of `llm.v1.tools.<scope>.register`; lives for `ttl_s` seconds unless repeated."""

    name: Name
    version: SemVer
    description: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    idempotent: bool = False
    ttl_s: Annotated[int, msgspec.Meta(ge=5, le=86_400)] = 90

    def __post_init__(self) -> None:
        check_depth(self.input_schema, path="input_schema")
        check_depth(self.output_schema, path="output_schema")


class ToolDeregistration(Strict, frozen=True, kw_only=True):
    name: Name
    version: SemVer


class ToolRegistered(Open, frozen=True, kw_only=True):
    """The reply to a registration: where to listen (queue group `tool`), and until when it lives."""

    subject: str
    expires: Timestamp


class ToolDeregistered(Open, frozen=True, kw_only=True):
    """The reply to a deregistration; `removed` is false where nothing was registered."""

    name: str
    version: str
    removed: bool


class ToolInfo(Open, frozen=True, kw_only=True):
    scope: str
    name: str
    version: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    timeout_s: float
    idempotent: bool
    subject: str
    expires: Timestamp | None
    discovered: bool = False


class ToolListRequest(Strict, frozen=True, kw_only=True):
    """Which live tools to list. `shared` adds those of scope `shared` that the scope's own do not shadow."""

    name: Name | None = None
    shared: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000
    cursor: str | None = None


class ToolList(Open, frozen=True, kw_only=True):
    """By name, highest version first. `cursor` asks for the next page; None on the last."""

    tools: tuple[ToolInfo, ...]
    cursor: str | None = None
