"""Configuration: a TOML file, over it the environment `SIDECAR_<SECTION>__<KEY>`, over that the flags.

The only reader of the environment. Every field's name or description carries its unit. What can change while the
process runs stands in `policy`.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sidecar.config.policy import DEFAULT_CLASSES, Classes, JobTools, Tenants, check_filter_names, not_valid
from sidecar.config.policy import INTERACTIVE_HOLD_S as INTERACTIVE_HOLD_S
from sidecar.config.policy import CurrentPolicy as CurrentPolicy
from sidecar.config.policy import FilterPolicy as FilterPolicy
from sidecar.config.policy import JobTool as JobTool
from sidecar.config.policy import ModelPolicy as ModelPolicy
from sidecar.config.policy import Policy as Policy
from sidecar.config.policy import SelectionPolicy as SelectionPolicy
from sidecar.config.policy import TenantPolicy as TenantPolicy
from sidecar.config.policy import ToolsPolicy as ToolsPolicy
from sidecar.config.policy import merge_policy as merge_policy
from sidecar.config.sections import AdminSettings as AdminSettings
from sidecar.config.sections import EndpointsSettings as EndpointsSettings
from sidecar.config.sections import LogSettings as LogSettings
from sidecar.config.sections import RetentionSettings as RetentionSettings
from sidecar.config.sections import Section as Section
from sidecar.config.sections import TelemetrySettings as TelemetrySettings
from sidecar.errors import StartupError
from sidecar.models.base import NAME_PATTERN
from sidecar.models.shown import on_one_line


class NatsSettings(Section):
    url: str | None = Field(None, description="server URLs, comma separated; default NATS_URL, context, localhost")
    context: str | None = Field(None, description="context of the nats CLI; default the selected one")
    creds: Path | None = Field(None, description="credentials file (JWT and seed); default NATS_CREDS")
    nkey_seed: Path | None = Field(None, description="file with an nkey seed")
    user: str | None = None
    password: str | None = Field(None, repr=False)
    token: str | None = Field(None, repr=False)
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    prefix: str = Field("llm", pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,3}$")
    replicas: Literal[1, 3, 5] = Field(1, description="copies of each stream; 3 for production")
    storage: Literal["file", "memory"] = "file"
    adopt: bool = Field(False, description="take streams whose configuration differs as they are")
    connect_timeout_s: float = Field(5.0, gt=0)
    request_timeout_s: float = Field(5.0, gt=0)
    watchdog_s: float = Field(5.0, gt=0, description="how often the connection is proved to be alive")


class BedrockSettings(Section):
    regions: tuple[str, ...] = Field(("us-east-1",), min_length=1)
    endpoint_url: str | None = Field(None, description="another endpoint than AWS's, such as the emulator")
    transport: Literal["aiohttp", "boto3"] = "aiohttp"
    max_connections: int = Field(512, ge=1)
    connect_timeout_s: float = Field(5.0, gt=0)
    profile: str | None = Field(None, description="AWS profile of the shared configuration files")


class SchedulerSettings(Section):
    slots: int = Field(256, ge=1, description="jobs that this replica runs at once")
    window: int = Field(16, ge=1, le=256, description="job references held in memory for each lane")
    reconcile_s: float = Field(15.0, gt=0)
    check_s: float = Field(1.0, gt=0, description="how often the stream's last sequence is compared")
    interactive_reserve: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="share of all replicas' slots kept for interactive; one at least, where there are two",
    )


class JobsSettings(Section):
    timeout_s: float = Field(600.0, gt=0)
    first_token_timeout_s: float = Field(120.0, gt=0)
    idle_timeout_s: float = Field(120.0, gt=0)
    max_attempts: int = Field(3, ge=1, description="attempts that end in a crash before the job is given up")
    max_tokens: int = Field(4096, ge=1, description="where a request sets none")
    max_calls: int = Field(
        4,
        ge=1,
        description="calls of models that may be billed, for each turn of a job and over all its candidates",
    )
    max_turns: int = Field(16, ge=1)
    max_tool_calls: int = Field(64, ge=0)
    drain_s: float = Field(30.0, ge=0, description="grace for running jobs at SIGTERM")
    linger_s: float | None = Field(
        None, ge=0, description="wait of /drain for SIGTERM before the process ends by itself; none: drain_s"
    )
    delta_ms: float = Field(20.0, ge=0, le=40, description="how long pieces of text are gathered")
    unknown_tool_outcome: Literal["repeat", "tell"] = "tell"
    max_parallel_tools: int = Field(8, ge=1, le=256, description="tool calls of one job at a time")
    max_tool_output_bytes: int = Field(
        65_536, ge=256, le=262_144, description="of one call's output; what is longer is cut, and says so"
    )
    max_job_depth: int = Field(2, ge=0, le=8, description="jobs below a job, by tools that are jobs")
    max_input_bytes: int = Field(20 * 1024**2, ge=1024, description="objects that one job may name, together")


class BoundedWorkSettings(Section):
    """`[bounded_work]`: processes that do what would hold everybody up (docs/operating.md)."""

    processes: int = Field(2, ge=1, le=64, description="worker processes; started when first needed")
    time_limit_s: float = Field(2.0, gt=0, le=60, description="processor time of one check, filter or rendering")
    memory_bytes: int = Field(256 * 1024**2, ge=128 * 1024**2, description="address space of one process")
    idle_s: float = Field(60.0, gt=0, description="idle processes end after this")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="SIDECAR_", env_nested_delimiter="__", extra="forbid", frozen=True, allow_inf_nan=False
    )

    name: str | None = Field(None, pattern=NAME_PATTERN, description="this replica; default host name and pid")
    nats: NatsSettings = NatsSettings()
    bedrock: BedrockSettings = BedrockSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    jobs: JobsSettings = JobsSettings()
    bounded_work: BoundedWorkSettings = BoundedWorkSettings()
    classes: Classes = DEFAULT_CLASSES
    tools: ToolsPolicy = ToolsPolicy()
    tenants: Tenants = Field(default_factory=dict)
    models: dict[str, ModelPolicy] = Field(default_factory=dict)
    selection: SelectionPolicy = SelectionPolicy()
    filters: dict[str, FilterPolicy] = Field(default_factory=dict)
    job_tools: JobTools = Field(default_factory=dict)
    retention: RetentionSettings = RetentionSettings()
    endpoints: EndpointsSettings = EndpointsSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _names_what_is_there(self) -> "Settings":
        check_filter_names(self.classes, self.tenants, self.filters)
        return self

    @model_validator(mode="after")
    def _keeps_documents_longer_than_jobs(self) -> "Settings":
        limits = {"jobs.timeout_s": self.jobs.timeout_s}
        limits |= {f"job_tools.{name}.timeout_s": tool.timeout_s for name, tool in self.job_tools.items()}
        longest = max(limits, key=lambda name: limits[name])
        if self.retention.state_s < limits[longest]:
            raise ValueError(
                f"retention.state_s: {self.retention.state_s} s are less than {longest} = {limits[longest]:g}: a"
                " job's document would be gone before the job may end; raise the one or lower the other"
            )
        return self

    @property
    def policy(self) -> Policy:
        return Policy(
            classes=self.classes,
            tenants=self.tenants,
            models=self.models,
            selection=self.selection,
            filters=self.filters,
            tools=self.tools,
            job_tools=self.job_tools,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load(config: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of this process. `overrides` are nested like the file: `{"nats": {"url": …}}`.

    Raises StartupError that names each field that is wrong, its value's place and the remedy.
    """
    if config is not None and not config.is_file():
        raise StartupError(f"configuration file {config} does not exist: give another --config or SIDECAR_CONFIG")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return FromFile(**(overrides or {}))
    except ValidationError as e:
        raise not_valid("the configuration", e) from e
    except RecursionError as e:
        raise StartupError(
            f"the configuration (file {config} and environment) is nested too deep: flatten it"
        ) from e
    except ValueError as e:
        raise StartupError(f"the configuration file {config} cannot be read: {on_one_line(str(e), 500)}") from e
