"""The ports of a replica, over NATS: which adapter stands for which."""

from sidecar.adapters.nats.blobs import NatsBlobs
from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.cluster_bus import NatsClusterBus
from sidecar.adapters.nats.control import NatsCheckpoints, NatsLeaseStore
from sidecar.adapters.nats.dead_letters import NatsDeadLetters
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.adapters.nats.job_store import NatsJobStore
from sidecar.adapters.nats.journal import NatsJournal
from sidecar.adapters.nats.micro import NatsEndpoints
from sidecar.adapters.nats.pauses import NatsPauseStore
from sidecar.adapters.nats.policies import NatsPolicyStore
from sidecar.adapters.nats.prompts import NatsPromptStore
from sidecar.adapters.nats.publisher import NatsPublisher
from sidecar.adapters.nats.spend import NatsSpendLedger
from sidecar.adapters.nats.spend_days import NatsSpendDays
from sidecar.adapters.nats.tool_bus import NatsToolBus
from sidecar.adapters.nats.tool_store import NatsToolStore
from sidecar.config.settings import Settings
from sidecar.models.subjects import Subjects
from sidecar.ports.all import Ports
from sidecar.ports.bus import Clock, ModelClient


def nats_ports(
    mux: Mux, settings: Settings, models: ModelClient, *, clock: Clock, endpoints: NatsEndpoints | None = None
) -> Ports:
    """All that a replica needs of the world, over one connection to NATS; `endpoints` may have another."""
    subjects = Subjects(settings.nats.prefix)
    is_replicated = settings.nats.replicas > 1
    return Ports(
        intake=NatsIntake(mux, subjects, is_replicated=is_replicated),
        store=NatsJobStore(mux, is_replicated=is_replicated, live_s=settings.retention.live_s, now=clock.now),
        publisher=NatsPublisher(mux, subjects, events_s=settings.retention.events_s, is_replicated=is_replicated),
        journal=NatsJournal(mux, is_replicated=is_replicated),
        endpoints=endpoints or nats_endpoints(mux.connection, settings, clock),
        models=models,
        bus=NatsClusterBus(mux, subjects),
        leases=NatsLeaseStore(mux, is_replicated=is_replicated, monotonic=clock.monotonic),
        checkpoints=NatsCheckpoints(mux, is_replicated=is_replicated),
        dead=NatsDeadLetters(
            mux,
            subjects,
            failed_bytes=settings.retention.failed_bytes,
            is_replicated=is_replicated,
            monotonic=clock.monotonic,
        ),
        spend=NatsSpendLedger(mux, subjects, is_replicated=is_replicated),
        pauses=NatsPauseStore(mux, is_replicated=is_replicated),
        spend_days=NatsSpendDays(mux, subjects, is_replicated=is_replicated),
        policies=NatsPolicyStore(mux, is_replicated=is_replicated),
        prompts=NatsPromptStore(mux, is_replicated=is_replicated),
        blobs=NatsBlobs(mux, settings, clock=clock),
        tools=NatsToolStore(mux, subjects, is_replicated=is_replicated),
        tool_bus=NatsToolBus(mux, now=clock.now),
        clock=clock,
    )


def nats_endpoints(connection: Connection, settings: Settings, clock: Clock) -> NatsEndpoints:
    subjects = Subjects(settings.nats.prefix)
    return NatsEndpoints(
        connection, subjects=subjects, settings=settings.endpoints, monotonic=clock.monotonic, now=clock.now
    )
