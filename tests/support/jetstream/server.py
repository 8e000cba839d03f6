"""A NATS server with JetStream in one process: connections, interest, streams, and faults on the wire.

One object stands for the cluster, whatever happens to its clients. It takes the bytes that the product's own
connection would write to a socket and gives the bytes that would come back, so that the real adapters run over it.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sidecar.adapters.nats.streams.topology import streams
from sidecar.config.settings import Settings
from sidecar.models.subjects import (
    CANCEL_BUCKET,
    CONTROL_BUCKET,
    DEAD_STREAM,
    JOB_BUCKET,
    PROMPT_BUCKET,
    REQUEST_STREAM,
    TOOL_BUCKET,
    Subjects,
)
from sidecar.ports.bus import Clock
from tests.support.jetstream import traffic
from tests.support.jetstream.api import Api
from tests.support.jetstream.faults import (
    NO_FAULT,
    Delivery,
    DeliveryPlan,
    Fault,
    FaultPlan,
    Operation,
    deliver_once,
    no_faults,
)
from tests.support.jetstream.peer import Host, Peer, Sub
from tests.support.jetstream.storing import Storing, Write
from tests.support.jetstream.stream import Stream
from tests.support.jetstream.subjects import Interest
from tests.support.jetstream.wire import header_block, status

_API = "$JS.API."
_PULL = "$JS.API.CONSUMER.MSG.NEXT."
_NOBODY = status(b"503")


class FakeJetStream:
    """The server. `settings` say which streams there are at the start.

    `faults` decides about each message that comes in, `deliveries` about each that goes to a subscriber, `replies`
    about each to an inbox, `choose` about which member of a queue group gets a message; all may be replaced at any
    time. With more than one of `servers` a write takes a moment until it is stored, and a direct read may be
    answered by one that is `api.lag` behind. `operations` is what clients have sent so far.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        settings: Settings | None = None,
        max_payload: int = 1024 * 1024,
        request_timeout_s: float = 5.0,
        servers: int = 1,
    ) -> None:
        settings = settings or Settings()
        self.clock = clock
        self.subjects = Subjects(settings.nats.prefix)
        self.max_payload = max_payload
        self.request_timeout_s = request_timeout_s
        self.faults: FaultPlan = no_faults
        self.deliveries: DeliveryPlan = deliver_once
        self.replies: DeliveryPlan = deliver_once
        self.is_up = True
        self.api = Api(clock.now, max_replicas=servers)
        self.choose: Callable[[Sequence[Sub]], Sub] = lambda members: members[0]
        self._interest: Interest[Sub] = Interest()
        self._peers: list[Peer] = []
        self._sent: list[tuple[str, str, bytes, bytes]] = []
        self._away: set[str] = set()
        self._hosts: list[Host] = []
        self._muted: set[bytes] = set()
        self.servers = servers
        self._storing = Storing(servers, answer=self._acknowledge, announce=self._announce)
        for spec in streams(settings):
            self.api.create({"name": spec.name, **spec.config})

    # What tests look at.

    @property
    def operations(self) -> list[Operation]:
        return [
            Operation(replica, *traffic.read(subject, header, payload))
            for replica, subject, header, payload in self._sent
        ]

    def stream(self, name: str) -> Stream:
        return self.api.streams[name]

    @property
    def requests(self) -> Stream:
        return self.stream(REQUEST_STREAM)

    @property
    def jobs(self) -> Stream:
        return self.stream(f"KV_{JOB_BUCKET}")

    @property
    def marks(self) -> Stream:
        return self.stream(f"KV_{CANCEL_BUCKET}")

    @property
    def dead(self) -> Stream:
        return self.stream(DEAD_STREAM)

    @property
    def control(self) -> Stream:
        return self.stream(f"KV_{CONTROL_BUCKET}")

    @property
    def tools(self) -> Stream:
        return self.stream(f"KV_{TOOL_BUCKET}")

    @property
    def prompts(self) -> Stream:
        return self.stream(f"KV_{PROMPT_BUCKET}")

    @property
    def info(self) -> Mapping[str, Any]:
        """What the server says about itself to a client."""
        return {
            "server_id": "FAKE",
            "server_name": "fake",
            "version": "2.15.1",
            "headers": True,
            "jetstream": True,
            "max_payload": self.max_payload,
        }

    # What happens to it, and to clients.

    def partition(self, replica: str) -> None:
        """Cut a client off: nothing comes or goes, neither side is told, and what is sent waits for `heal`."""
        self._away.add(replica)

    def heal(self, replica: str) -> None:
        """What waited on a connection that still stands arrives; what its client has given up is lost."""
        self._away.discard(replica)
        for peer in self._peers_of(replica):
            if peer.is_given_up:
                self.forget(peer)
                continue
            peer.flush_soon()
            for data in peer.take_held():
                self.receive(peer, data)

    def is_partitioned(self, replica: str) -> bool:
        return replica in self._away

    def is_cut_off(self, host: Host) -> bool:
        """Whether nothing that a process sends arrives, and nothing reaches it."""
        return host.is_dead or host.replica in self._away

    def drop(self, replica: str) -> None:
        """Close a client's connection; it may come again at once."""
        for peer in self._peers_of(replica):
            self._hang_up(peer)

    def kill(self, replica: str) -> None:
        """What the end of a client's process is to others: it is gone, and nothing more comes of it."""
        for host in self._hosts:
            if host.replica == replica:
                host.is_dead = True
        for peer in self._peers_of(replica):
            self.forget(peer)

    def stop(self) -> None:
        """Close all connections and take no more. Streams stay."""
        self.is_up = False
        for peer in list(self._peers):
            self._hang_up(peer)

    def start(self) -> None:
        self.is_up = True

    def boot(self, replica: str) -> Host:
        """A client's process begins."""
        host = Host(replica)
        self._hosts.append(host)
        return host

    def admit(self, peer: Peer) -> None:
        self._peers.append(peer)

    def forget(self, peer: Peer) -> None:
        """A connection has ended."""
        if peer in self._peers:
            self._peers.remove(peer)
        for sub in peer.subs.values():
            self._interest.remove(sub.pattern, sub)
        peer.subs.clear()
        peer.is_open = False

    def _hang_up(self, peer: Peer) -> None:
        self.forget(peer)
        if not self.is_cut_off(peer.host):
            peer.tell_closed()

    def _peers_of(self, replica: str) -> list[Peer]:
        return [peer for peer in self._peers if peer.replica == replica]

    # What clients send.

    def receive(self, peer: Peer, data: bytes) -> None:
        """Bytes from a client: whole commands."""
        if peer.host.is_dead:
            return
        if peer.replica in self._away:
            peer.hold(data)
            return
        at, size = 0, len(data)
        while at < size and peer.is_open:
            eol = data.index(b"\r\n", at)
            line = data[at:eol]
            at = eol + 2
            if line.startswith(b"PUB"):
                args = line.split(b" ")
                end = at + int(args[-1])
                self._published(peer, args[1], args[2] if len(args) == 4 else b"", b"", data[at:end])
                at = end + 2
            elif line.startswith(b"HPUB"):
                args = line.split(b" ")
                split, end = at + int(args[-2]), at + int(args[-1])
                reply = args[2] if len(args) == 5 else b""
                self._published(peer, args[1], reply, data[at:split], data[split:end])
                at = end + 2
            else:
                self._control(peer, line)

    def _control(self, peer: Peer, line: bytes) -> None:
        args = line.split()
        if args[0] == b"SUB":
            sub = Sub(peer, args[-1], args[1].decode(), args[2] if len(args) == 4 else b"")
            peer.subs[sub.sid] = sub
            self._interest.add(sub.pattern, sub)
        elif args[0] == b"UNSUB":
            gone = peer.subs.pop(args[1], None)
            if gone is not None:
                self._interest.remove(gone.pattern, gone)
        elif args[0] == b"PING":
            peer.push(b"PONG\r\n")
        elif args[0] != b"PONG":
            raise AssertionError(f"a client sent {line!r}")

    def _published(self, peer: Peer, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        if len(header) + len(payload) > self.max_payload:
            peer.push(b"-ERR 'Maximum Payload Violation'\r\n")
            self._hang_up(peer)
            return
        name = subject.decode("utf-8", "surrogateescape")
        self._sent.append((peer.replica, name, header, payload))
        if self.faults is no_faults:
            self.publish(name, payload, header=header, reply=reply)
            return
        fault = self.faults(Operation(peer.replica, *traffic.read(name, header, payload)))
        if self.is_cut_off(peer.host):
            # The plan did that, with this message under way.
            return
        self._publish_with(fault, name, reply, header, payload)

    def _publish_with(self, fault: Fault, name: str, reply: bytes, header: bytes, payload: bytes) -> None:
        if fault.lose == "request":
            return
        delay_s = fault.delay_s
        if fault.lose != "nothing" and reply:
            self._muted.add(reply)
        if fault.lose == "late":
            delay_s += self.request_timeout_s + fault.late_s

        def arrive() -> None:
            self.publish(name, payload, header=header, reply=reply, refusal=fault.refusal)

        for _ in range(2 if fault.is_doubled else 1):
            if delay_s > 0:
                asyncio.get_running_loop().call_later(delay_s, arrive)
            else:
                arrive()

    def publish(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        header: bytes = b"",
        reply: bytes = b"",
        refusal: tuple[int, int, str] | None = None,
        is_at_once: bool = False,
    ) -> None:
        """What a message does when it is there; anybody's, also a stranger's."""
        raw = subject.encode("utf-8", "surrogateescape")
        heard = self._route(raw, subject, reply, header, payload)
        if subject.startswith(_PULL):
            self._pulled(subject[len(_PULL) :], payload, reply)
            return
        if subject.startswith(_API):
            answers = self.api.answer(subject[len(_API) :], payload)
            if answers is not None:
                self._answer(reply, answers)
                return
        stream = self.api.sink(subject)
        if stream is not None:
            write = Write(stream, subject, header, payload, reply, refusal)
            self._storing.take(write, is_at_once=is_at_once)
        elif not heard and reply:
            self._answer(reply, iter([(_NOBODY, b"")]))

    def write(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Store what anybody may, at once. Returns its sequence."""
        stream = self.api.sink(subject)
        assert stream is not None, subject
        self.publish(subject, payload, header=header_block(headers) if headers else b"", is_at_once=True)
        return stream.last_seq

    def _answer(self, reply: bytes, answers: Iterator[tuple[bytes, bytes]]) -> None:
        name = reply.decode("utf-8", "surrogateescape")
        for header, payload in answers:
            if reply:
                self._route(reply, name, b"", header, payload)

    def _pulled(self, below: str, payload: bytes, reply: bytes) -> None:
        inbox = reply.decode()
        for found in self.api.consumers.pull(below, payload):
            if reply not in self._muted:
                subject = (found.subject or inbox).encode("utf-8", "surrogateescape")
                self._route(subject, inbox, found.reply.encode(), found.header, found.payload)

    def _acknowledge(self, reply: bytes, ack: bytes) -> None:
        self._answer(reply, iter([(b"", ack)]))

    def _announce(self, subject: str, header: bytes, payload: bytes, seq: int) -> None:
        self._route(subject.encode("utf-8", "surrogateescape"), subject, b"", header, payload, seq)

    # What clients hear.

    def _route(self, raw: bytes, subject: str, reply: bytes, header: bytes, payload: bytes, seq: int = 0) -> int:
        """Deliver to all that listen, one of each queue group. Returns how many those are."""
        if raw in self._muted:
            return 1
        found = self._interest.of(subject)
        if len(found) > 1 and any(sub.queue for sub in found):
            found = self._one_of_each_group(found)
        for sub in found:
            self._deliver(sub, raw, subject, reply, header, payload, seq)
        return len(found)

    def _one_of_each_group(self, found: list[Sub]) -> list[Sub]:
        chosen = [sub for sub in found if not sub.queue]
        groups: dict[tuple[str, bytes], list[Sub]] = {}
        for sub in found:
            if sub.queue:
                groups.setdefault((sub.pattern, sub.queue), []).append(sub)
        return chosen + [self.choose(members) for members in groups.values()]

    def _deliver(
        self, sub: Sub, raw: bytes, subject: str, reply: bytes, header: bytes, payload: bytes, seq: int
    ) -> None:
        plan = self.replies if subject.startswith("_INBOX") else self.deliveries
        if plan is deliver_once:
            sub.peer.message(sub, raw, reply, header, payload)
            return
        for delay_s in plan(Delivery(sub.peer.replica, subject, seq)):
            if delay_s > 0:
                loop = asyncio.get_running_loop()
                loop.call_later(delay_s, sub.peer.message, sub, raw, reply, header, payload)
            else:
                sub.peer.message(sub, raw, reply, header, payload)


def on(name: str, fault: Fault) -> Callable[[Operation], Fault]:
    """A plan that lets one kind of message go wrong."""
    return lambda operation: fault if operation.name == name else NO_FAULT
