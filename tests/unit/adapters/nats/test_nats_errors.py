"""The table of the bus's errors."""

import asyncio

import nats.errors
import nats.js.errors
import pytest

from sidecar.adapters.nats.client.errors import ApiError, NotFound, api_error, bus_error, mapped
from sidecar.errors import BusRefused, BusUnavailable, Conflict, SidecarError


@pytest.mark.parametrize(
    ("code", "err_code", "kind", "protocol_code"),
    [
        (400, 10071, Conflict, "internal"),
        (400, 10164, BusUnavailable, "internal"),
        (503, 10077, BusRefused, "queue_full"),
        (400, 10054, BusRefused, "payload_too_large"),
        (503, 10047, BusUnavailable, "internal"),
        (503, 10023, BusUnavailable, "internal"),
        (503, 10039, BusRefused, "internal"),
        (400, 10111, BusRefused, "invalid_request"),
        (404, 10059, NotFound, "internal"),
        (503, 99999, BusUnavailable, "internal"),
        (400, 99999, BusRefused, "internal"),
    ],
)
def test_jetstream_errors_by_what_can_be_done(
    code: int, err_code: int, kind: type[SidecarError], protocol_code: str
) -> None:
    error = api_error(ApiError(code, err_code, "words of the server"), "storing x")
    assert type(error) is kind
    assert error.code == protocol_code
    assert error.details == {"code": code, "err_code": err_code}
    assert error.message == "NATS refused storing x: words of the server"


@pytest.mark.parametrize(
    ("foreign", "kind"),
    [
        (nats.errors.TimeoutError(), BusUnavailable),
        (nats.errors.NoRespondersError(), BusUnavailable),
        (nats.errors.OutboundBufferLimitError(), BusUnavailable),
        (nats.errors.ConnectionClosedError(), BusUnavailable),
        (nats.errors.StaleConnectionError(), BusUnavailable),
        (nats.errors.UnexpectedEOF(), BusUnavailable),
        (ConnectionResetError("gone"), BusUnavailable),
        (TimeoutError(), BusUnavailable),
        (nats.errors.MaxPayloadError(), BusRefused),
        (nats.errors.BadSubjectError(), BusRefused),
        (nats.js.errors.KeyWrongLastSequenceError(), Conflict),
        (nats.js.errors.BadRequestError(code=400, err_code=10071, description="wrong last sequence"), Conflict),
        (nats.js.errors.NotFoundError(code=404, err_code=10059, description="none"), NotFound),
    ],
)
def test_exceptions_of_nats_py_and_of_the_socket(foreign: Exception, kind: type[SidecarError]) -> None:
    assert type(bus_error(foreign, "x")) is kind
    with pytest.raises(kind) as caught, mapped("x"):
        raise foreign
    assert caught.value.__cause__ is foreign


@pytest.mark.parametrize("own", [Conflict("x"), asyncio.CancelledError(), ValueError("a bug of ours")])
def test_what_is_not_foreign_passes_through(own: BaseException) -> None:
    with pytest.raises(type(own)) as caught, mapped("x"):
        raise own
    assert caught.value is own
