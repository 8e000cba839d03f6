"""All that a replica needs of the world, in one value."""

from typing import NamedTuple

from sidecar.ports.bus import (
    Blobs,
    Clock,
    DeadLetters,
    Endpoints,
    Intake,
    JobStore,
    JournalStore,
    ModelClient,
    PromptStore,
    Publisher,
    SpendLedger,
)
from sidecar.ports.cluster import Checkpoints, ClusterBus, LeaseStore, PauseStore, PolicyStore, SpendDays
from sidecar.ports.tools import ToolBus, ToolStore


class Ports(NamedTuple):
    """What a replica needs of the world."""

    intake: Intake
    store: JobStore
    publisher: Publisher
    journal: JournalStore
    endpoints: Endpoints
    models: ModelClient
    bus: ClusterBus
    leases: LeaseStore
    checkpoints: Checkpoints
    dead: DeadLetters
    spend: SpendLedger
    spend_days: SpendDays
    pauses: PauseStore
    policies: PolicyStore
    blobs: Blobs
    prompts: PromptStore
    tools: ToolStore
    tool_bus: ToolBus
    clock: Clock
