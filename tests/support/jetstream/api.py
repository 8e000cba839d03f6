"""JetStream's API over the streams in memory: what `$JS.API.…` answers."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.support.jetstream import direct
from tests.support.jetstream.consumers import Consumers
from tests.support.jetstream.direct import Answer
from tests.support.jetstream.rules import Refused
from tests.support.jetstream.stream import Stream
from tests.support.jetstream.subjects import Interest, collide
from tests.support.jetstream.wire import timestamp

_LEVEL = 5
_PAGE = 100_000
_NO_STREAM = Refused(404, 10059, "stream not found")
_BAD_REQUEST = Refused(400, 10003, "bad request")
_DEFAULTS: dict[str, Any] = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 120_000_000_000,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}
# Left out of what the server says where they are off, as Go's JSON does.
_OPTIONAL = (
    "discard_new_per_subject",
    "allow_msg_schedules",
    "allow_atomic",
    "allow_batched",
    "allow_msg_counter",
    "subject_delete_marker_ttl",
    "first_seq",
)

_BESIDE_ERRORS = {"stream_info": {"total": 0, "offset": 0, "limit": 0}, "stream_purge": {"purged": 0}}


class Api:
    """The streams of one account. `max_replicas` is how many servers there are."""

    def __init__(self, now: Callable[[], float], *, max_replicas: int = 1) -> None:
        self.streams: dict[str, Stream] = {}
        self._sinks: Interest[Stream] = Interest()
        self.lag: Callable[[], float] = lambda: 0.0
        """How far behind the server is that answers a direct read, in seconds."""
        self.consumers = Consumers()
        self._now = now
        self._max_replicas = max_replicas
        self._verbs: Mapping[str, tuple[str, Callable[[str, Any], dict[str, Any]]]] = {
            "STREAM.INFO": ("stream_info", self._info),
            "STREAM.CREATE": ("stream_create", self._create),
            "STREAM.UPDATE": ("stream_update", self._update),
            "STREAM.DELETE": ("stream_delete", self._delete),
            "STREAM.PURGE": ("stream_purge", self._purge),
            "STREAM.MSG.GET": ("stream_msg_get", self._get_message),
            "STREAM.MSG.DELETE": ("stream_msg_delete", self._delete_message),
        }

    def answer(self, below: str, payload: bytes) -> Iterator[Answer] | None:
        """The answers to a request to `$JS.API.<below>`; None where nothing listens there."""
        if below.startswith("DIRECT.GET."):
            return self._direct(below[11:], payload)
        if below.startswith("CONSUMER."):
            return self._consumer(*below.split(".", 4)[1:4], payload=payload)
        if below == "INFO":
            return self._one("account_info", self._account)
        if below == "STREAM.NAMES":
            return self._one("stream_names", lambda: self._names(_body(payload)))
        verb, _, name = below.rpartition(".")
        found = self._verbs.get(verb)
        # The server keeps silent on what is no API of its own.
        return iter(()) if found is None else self._one(found[0], lambda: found[1](name, _body(payload)))

    def _consumer(self, verb: str, stream: str, name: str, *, payload: bytes) -> Iterator[Answer]:
        if verb == "CREATE":
            work = lambda: self.consumers.create(self._stream(stream), name, _body(payload))  # noqa: E731
        else:
            work = lambda: self.consumers.delete(stream, name)  # noqa: E731
        return self._one(f"consumer_{verb.lower()}", work)

    def _one(self, kind: str, work: Callable[[], dict[str, Any]]) -> Iterator[Answer]:
        body: dict[str, Any] = {"type": f"io.nats.jetstream.api.v1.{kind}_response"}
        try:
            body |= work()
        except Refused as e:
            body |= {"error": e.error, **_BESIDE_ERRORS.get(kind, {})}
        # Subjects that are no UTF-8 are shown with a replacement.
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        yield b"", text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()

    def _stream(self, name: str) -> Stream:
        found = self.streams.get(name)
        if found is None:
            raise _NO_STREAM
        return found

    def _account(self) -> dict[str, Any]:
        return {
            "memory": 0,
            "storage": 0,
            "streams": len(self.streams),
            "consumers": 0,
            "limits": {},
            "api": {"level": _LEVEL},
        }

    def _names(self, body: Any) -> dict[str, Any]:
        wanted = (body or {}).get("subject")
        names = [
            name
            for name, stream in sorted(self.streams.items())
            if wanted is None or any(collide(wanted, subject) for subject in stream.config["subjects"])
        ]
        return {"total": len(names), "offset": 0, "limit": 1024, "streams": names or None}

    # Streams.

    def create(self, config: Mapping[str, Any]) -> Stream:
        """Raises Refused."""
        made = _completed(config)
        self._check_replicas(made)
        there = self.streams.get(made["name"])
        if there is not None:
            if there.config != made:
                raise Refused(400, 10058, "stream name already in use with a different configuration")
            return there
        for other in self.streams.values():
            if any(collide(a, b) for a in made["subjects"] for b in other.config["subjects"]):
                raise Refused(400, 10065, "subjects overlap with an existing stream")
        stream = self.streams[made["name"]] = Stream(made, self._now)
        self._take_subjects()
        return stream

    def sink(self, subject: str) -> Stream | None:
        """The stream that stores what is published to a subject."""
        found = self._sinks.of(subject)
        return found[0] if found else None

    def _take_subjects(self) -> None:
        self._sinks = Interest()
        for stream in self.streams.values():
            for pattern in stream.config["subjects"]:
                self._sinks.add(pattern, stream)

    def _check_replicas(self, config: Mapping[str, Any]) -> None:
        if config["num_replicas"] > 1 and self._max_replicas == 1:
            raise Refused(500, 10074, "replicas > 1 not supported in non-clustered mode")
        if config["num_replicas"] > self._max_replicas:
            raise Refused(400, 10005, "no suitable peers for placement")

    def _create(self, name: str, body: Any) -> dict[str, Any]:
        if not body:
            raise _BAD_REQUEST
        if body.get("name") != name:
            raise Refused(400, 10056, "stream name in subject does not match request")
        is_new = name not in self.streams
        self.create(body)
        return {**self._info(name, None), "did_create": is_new}

    def _update(self, name: str, body: Any) -> dict[str, Any]:
        stream = self._stream(name)
        made = _completed(body)
        self._check_replicas(made)
        for fixed in ("storage", "allow_msg_counter"):
            if made.get(fixed) != stream.config.get(fixed):
                raise Refused(500, 10052, f"stream configuration update can not change {fixed}")
        if stream.config["allow_msg_ttl"] and not made["allow_msg_ttl"]:
            raise Refused(500, 10052, "message TTL status can not be disabled")
        stream.configure(made)
        self._take_subjects()
        return self._info(name, None)

    def _delete(self, name: str, _: Any) -> dict[str, Any]:
        self._stream(name)
        del self.streams[name]
        self._take_subjects()
        return {"success": True}

    def _purge(self, name: str, body: Any) -> dict[str, Any]:
        stream, body = self._stream(name), body or {}
        purged = stream.purge(body.get("filter"), seq=body.get("seq"), keep=body.get("keep", 0))
        return {"success": True, "purged": purged}

    def _info(self, name: str, body: Any) -> dict[str, Any]:
        stream, body = self._stream(name), body or {}
        held = len(stream)
        first = stream.get(stream.first_seq)
        state: dict[str, Any] = {
            "messages": held,
            "bytes": stream.bytes,
            "first_seq": stream.first_seq,
            "first_ts": timestamp(first.stored_at).decode() if first else "0001-01-01T00:00:00Z",
            "last_seq": stream.last_seq,
            "last_ts": timestamp(stream.last_at).decode() if stream.last_seq else "0001-01-01T00:00:00Z",
            "num_deleted": max(0, stream.last_seq - stream.first_seq + 1 - held),
            "consumer_count": 0,
        }
        page = {"total": 0, "offset": 0, "limit": 0}
        if pattern := body.get("subjects_filter"):
            counts = stream.counts(pattern)
            offset = body.get("offset", 0)
            shown = dict(list(counts.items())[offset : offset + _PAGE])
            page = {"total": len(counts), "offset": offset, "limit": _PAGE} if counts else page
            if shown:
                state["subjects"] = shown
        created, now = timestamp(stream.created_at).decode(), timestamp(self._now()).decode()
        return {**page, "config": stream.config, "created": created, "state": state, "ts": now}

    # Messages, asked of the leader.

    def _get_message(self, name: str, body: Any) -> dict[str, Any]:
        stream = self._stream(name)
        if not body:
            raise _BAD_REQUEST
        found = direct.find(stream, body)
        if found is None:
            raise Refused(404, 10037, "no message found")
        message: dict[str, Any] = {"subject": found.subject, "seq": found.seq}
        if found.header:
            message["hdrs"] = b64encode(found.header).decode()
        if found.payload:
            message["data"] = b64encode(found.payload).decode()
        return {"message": {**message, "time": timestamp(found.stored_at).decode()}}

    def _delete_message(self, name: str, body: Any) -> dict[str, Any]:
        stream = self._stream(name)
        if not body:
            raise _BAD_REQUEST
        if stream.config["deny_delete"]:
            raise Refused(400, 10057, "message delete not permitted")
        seq = body.get("seq", 0)
        if not stream.delete(seq):
            if seq <= stream.last_seq:
                raise Refused(400, 10043, f"sequence {seq} not found")
            raise Refused(500, 10057, "no message found")
        return {"success": True}

    def _direct(self, rest: str, payload: bytes) -> Iterator[Answer] | None:
        """A direct read, which any server of a stream may answer."""
        name, _, subject = rest.partition(".")
        stream = self.streams.get(name)
        if stream is None or not stream.config["allow_direct"]:
            return None
        lag_s = self.lag()
        return direct.answers(stream.as_of(self._now() - lag_s) if lag_s > 0 else stream, subject, payload)


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as the server shows it."""
    made = {**_DEFAULTS, **config}
    if made.get("republish"):
        made["republish"] = {key: value for key, value in made["republish"].items() if value}
    return {key: value for key, value in made.items() if value or key not in _OPTIONAL}


def _body(payload: bytes) -> Any:
    try:
        return json.loads(payload) if payload.strip() else None
    except ValueError:
        raise Refused(400, 10025, "invalid JSON") from None
