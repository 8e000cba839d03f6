"""Lets the event loop close the socket of a call that blocks in a thread.

botocore offers no way to abort a call. The connections of a client are made to report the socket they use to the
call that its thread is making; shutting that down wakes the thread at once.
"""

import contextlib
import socket
import threading
from typing import Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

_local = threading.local()


class CallAborted(Exception):
    """The call was given up while its thread was on the way."""


class CallSlot:
    """The socket of one call. `abort` may be called from any thread, `hold` is entered in the call's own."""

    def __init__(self, connect_s: float) -> None:
        self.connect_s = connect_s
        self.is_connecting = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_aborted = False

    def hold(self) -> contextlib.AbstractContextManager[None]:
        return _holding(self)

    def use(self, used: socket.socket | None) -> None:
        """Raises CallAborted when the call has been given up already."""
        with self._lock:
            self._socket = used
            if self._is_aborted:
                raise CallAborted

    def abort(self) -> None:
        with self._lock:
            self._is_aborted = True
            used, self._socket = self._socket, None
        if used is not None:
            # It may have been closed by the other side in this moment.
            with contextlib.suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """The call is over: its socket may serve another now."""
        with self._lock:
            self._socket = None

    @property
    def is_aborted(self) -> bool:
        return self._is_aborted


@contextlib.contextmanager
def _holding(slot: CallSlot) -> Any:
    _local.slot = slot
    try:
        yield
    finally:
        _local.slot = None
        slot.release()


def _slot() -> CallSlot | None:
    return getattr(_local, "slot", None)


class _Reporting:
    """Mixed into botocore's connection classes."""

    def connect(self) -> Any:
        slot = _slot()
        if slot is not None:
            slot.use(None)
            self.timeout = slot.connect_s
            slot.is_connecting = True
        connected = super().connect()  # type: ignore[misc]
        if slot is not None:
            slot.is_connecting = False
            slot.use(self.sock)  # type: ignore[attr-defined]
        return connected

    def request(self, *args: Any, **kwargs: Any) -> Any:
        slot = _slot()
        if slot is not None and self.sock is not None:  # type: ignore[attr-defined]
            slot.use(self.sock)  # type: ignore[attr-defined]
        return super().request(*args, **kwargs)  # type: ignore[misc]


class _HttpConnection(_Reporting, AWSHTTPConnection):  # type: ignore[misc]
    pass


class _HttpsConnection(_Reporting, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _Releasing:
    """Mixed into botocore's pools: a connection that goes back is no longer the call's to shut down."""

    def _put_conn(self, conn: Any) -> None:
        slot = _slot()
        if slot is not None:
            slot.release()
        super()._put_conn(conn)  # type: ignore[misc]


class _HttpPool(_Releasing, AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HttpConnection


class _HttpsPool(_Releasing, AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HttpsConnection


def report_sockets(client: Any) -> None:
    """Make a botocore client's connections report to the slot that their thread holds.

    Reaches into botocore's HTTP session, for want of a public way; `test_bedrock_boto3_transport` holds it.
    """
    pools = client._endpoint.http_session._pool_classes_by_scheme
    pools.update({"http": _HttpPool, "https": _HttpsPool})
