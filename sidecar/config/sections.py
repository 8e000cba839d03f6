"""Sections of the configuration file that stand by themselves; all of them together are `settings`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
    trace_life_s: float = Field(
        60,
        ge=0,
        description="a job begun within this time is part of its submitter's trace, a later one is linked to it",
    )


MOST_DEAD_S = 30 * 86_400


class RetentionSettings(Section):
    state_s: int = Field(86_400, ge=60, description="age of state documents; no less than the longest job")
    events_s: int = Field(3_600, ge=10)
    requests_bytes: int = Field(2 * 1024**3, ge=1024**2, description="upper bound of the request stream")
    dead_bytes: int = Field(
        128 * 1024**2,
        ge=1024**2,
        description="upper bound of the requests of failed jobs; the oldest of crash loops make room",
    )
    dead_failed_bytes: int | None = Field(
        None,
        ge=0,
        description="of dead_bytes, up to where requests of other failures than crash loops are kept; none: half",
    )
    dead_s: int = Field(
        86_400,
        ge=0,
        le=MOST_DEAD_S,
        description="age of the requests of failed jobs, 0 keeps none; those of crash loops stay 30 days",
    )
    objects_s: int = Field(172_800, ge=60, description="age of objects; at least that of states is kept")
    spend_days: int = Field(400, ge=1, le=4_000, description="days for which the sums of spend are kept")
    objects_bytes: int = Field(256 * 1024**2, ge=1024**2, description="upper bound of each tenant's objects")

    @model_validator(mode="after")
    def _leaves_room_for_crash_loops(self) -> "RetentionSettings":
        if self.dead_failed_bytes is not None and self.dead_failed_bytes >= self.dead_bytes:
            raise ValueError(
                f"dead_failed_bytes: {self.dead_failed_bytes} leaves nothing of dead_bytes = {self.dead_bytes} for"
                " crash loops: raise the one or lower the other"
            )
        return self

    @property
    def failed_bytes(self) -> int:
        """Up to where requests of failures other than crash loops fill the stream of dead letters."""
        return self.dead_bytes // 2 if self.dead_failed_bytes is None else self.dead_failed_bytes

    @property
    def live_s(self) -> int:
        """How long the document of a job that runs or waits is kept; its owner writes it again before that (s)."""
        return max(self.state_s // 4, min(self.state_s, 60))


class AdminSettings(Section):
    host: str = "127.0.0.1"
    port: int = Field(8081, ge=0, le=65_535, description="0: any free port")
    enabled: bool = True
    hosts: tuple[str, ...] = Field(
        (), description="names with dots by which it may be asked; addresses and names without a dot need no entry"
    )
    token: str | None = Field(
        None,
        min_length=16,
        pattern=r"^[!-~]+$",
        repr=False,
        description="secret for /metrics, /info and /drain; none: metrics for all, the others from this machine",
    )
