"""Sections of the configuration file that stand by themselves; all of them together are `settings`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    # Infinity and NaN pass every lower bound, and no share or price can be reckoned with them.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


class EndpointsSettings(Section):
    """Bounds of what is asked by request and reply: of each tenant (`tenant_…`), and of all on this replica."""

    max_in_flight: int = Field(64, ge=4, description="requests answered at once")
    tenant_in_flight: int = Field(16, ge=1)
    max_waiting: int = Field(4_096, ge=16, description="requests that wait for their turn")
    tenant_waiting: int = Field(1_024, ge=1)
    wait_s: float = Field(
        10.0, gt=0, description="what has waited longer is refused: nobody waits for it any more"
    )
    max_bytes: int = Field(
        16 * 1024**2, ge=1024**2, description="of requests that wait; the same again of replies"
    )
    tenant_bytes: int = Field(4 * 1024**2, ge=64 * 1024)
    max_asks: int = Field(8_192, ge=2, description="open `ask` requests")
    tenant_asks: int = Field(1_024, ge=1)
    refusals_per_s: float = Field(
        200.0, ge=1, description="of each tenant; what is refused beyond is not answered"
    )


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class TelemetrySettings(Section):
    traces: bool = Field(False, description="send spans by OTLP; needs the extra `otel`")
    metrics: bool = Field(False, description="send metrics by OTLP beside /metrics; needs the extra `otel`")
