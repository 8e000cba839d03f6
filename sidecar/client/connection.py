"""nats-py's client, reading strictly: what a stranger may send can neither mislead it nor stop its reading loop.

Replaced are the parser, which separates fields by any white space, so that a publisher could choose for which
subscription a message came; the decoding of subjects and headers, which raised for bytes that are no UTF-8 and so
ended the reading loop while `is_connected` stayed true; and the names of inboxes, which could be counted on from
one that was seen. Every message is checked against its subscription's subject. So JetStream's consumers, which
deliver under the stored message's subject, do not work on such a connection; the library needs none.

What is used of nats-py's inside is named in `_NEEDED`: another release is refused when a client is made.
"""

import logging
from typing import Any

from nats.aio.client import Client
from nats.errors import ProtocolError

from sidecar.errors import ProtocolViolation, StartupError
from sidecar.wire.headers import decode_headers, description_of, status_of
from sidecar.wire.matching import Matcher, Misdelivered, matcher
from sidecar.wire.parser import Parser
from sidecar.wire.tokens import Tokens

log = logging.getLogger(__name__)

_NEEDED = ("_process_msg", "_process_headers", "_build_message", "_process_ping", "_process_info", "_process_err")
_KEPT = ("_ps", "_nuid", "_subs", "_pongs")
_STATUS = "Status"
_DESCRIPTION = "Description"


class StrictClient(Client):
    """Behaves like nats-py's client, but for JetStream's consumers. `SidecarClient` makes its own; an application
    that speaks NATS by itself can use one in the place of `nats.connect`.

    ```python
    nc = StrictClient()
    await nc.connect("nats://localhost:4222", inbox_prefix="_INBOX_acme")
    ```
    `misdelivered` counts what came for a subscription and did not fit it.
    """

    def __init__(self, misdelivered: Misdelivered | None = None) -> None:
        super().__init__()
        missing = [name for name in (*_NEEDED, *_KEPT) if not hasattr(self, name)]
        if missing:
            raise StartupError(f"this nats-py release lacks {', '.join(missing)}: install nats-py 2.16")
        self.misdelivered = misdelivered or Misdelivered()
        self._matchers: dict[int, tuple[str, Matcher]] = {}
        self._ps: Any = Parser(self)
        self._nuid: Any = _Names()

    async def heard_message(self, subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        number = int(sid) if sid.isdigit() and len(sid) < 20 else -1
        subscription = self._subs.get(number)
        if subscription is None or b"%d" % number != sid:
            # Under way when its subscription was given up.
            return
        known = self._matchers.get(number)
        if known is None:
            known = self._matchers[number] = (subscription.subject, matcher(subscription.subject))
        if not known[1](subject):
            self.misdelivered.note(known[0], subject)
            return
        try:
            await self._process_msg(number, subject, reply, payload, header)
        except Exception:
            log.exception("a message for the subscription %s could not be taken", known[0])

    def heard_pong(self) -> None:
        # nats-py's own handler breaks the read loop when the waiter has given up.
        self._pings_outstanding = 0
        self._pongs_received += 1
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():
                future.set_result(True)

    async def heard_ping(self) -> None:
        await self._process_ping()

    async def heard_info(self, info: dict[str, Any]) -> None:
        await self._process_info(info)

    async def heard_error(self, text: str) -> None:
        await self._process_err(text.lower())

    def violation(self, error: ProtocolViolation) -> Exception:
        """nats-py's read loop ends the connection on its own error, and makes another one."""
        log.error("NATS does not keep to its protocol, ending the connection: %s", error.message)
        return ProtocolError(error.message)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """The headers under their names, and an inline status as nats-py shows it."""
        if not headers:
            return None
        found = decode_headers(headers)
        status = status_of(headers)
        if status is not None:
            found[_STATUS] = f"{status:03d}"
            description = description_of(headers)
            if description:
                found[_DESCRIPTION] = description
        return found or None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        return self.msg_class(
            subject=subject.decode("utf-8", "replace"),
            reply=reply.decode("utf-8", "replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._matchers.pop(sid, None)


class _Names:
    """Stands where nats-py has a counter (NUID): names of the same length that cannot be guessed."""

    def __init__(self) -> None:
        self._tokens = Tokens()

    def next(self) -> bytearray:
        return bytearray(self._tokens.take())
