"""Who may ask the admin endpoint for what. Pure: a request's head and where it came from in, a refusal out.

Nobody logs in here, so a request is judged by what it cannot choose: the address it comes from, and a secret where
the settings have one. Host and Origin keep web pages out, whose requests a browser on this machine would make.
"""

import hmac
import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Literal, NamedTuple

Audience = Literal["anyone", "reader", "operator"]
"""`anyone` on the network; a `reader`: anyone too, unless there is a token; an `operator`: whoever has the token,
or without one whoever asks from this machine."""

_BEARER = "Bearer "
_WITHOUT_DOT = re.compile(r"[a-z0-9_-]+")
# Whoever forwards says so: a proxy in the pod would make a stranger look like a neighbour.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


class Request(NamedTuple):
    """The head of a request. `headers` by name in small letters; `is_own_machine`: both ends have one address."""

    method: str
    path: str
    headers: Mapping[str, str]
    is_own_machine: bool = False


class HttpRefusal(NamedTuple):
    status: int
    reason: str


class Guard:
    """`hosts`: names beyond those that need no naming, `where` they are listed; `token`: the secret of readers and
    operators; `has_pages`: web pages are served here, whose own scripts may ask for the rest of them.
    """

    def __init__(
        self,
        *,
        hosts: Collection[str] = (),
        token: str | None = None,
        where: str = "admin.hosts",
        has_pages: bool = False,
    ) -> None:
        self._where = where
        self._has_pages = has_pages
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._token = token

    def refusal(self, request: Request, audience: Audience) -> HttpRefusal | None:
        """Why `request` is not answered with a page for `audience`; None if it is."""
        if not self._is_known(request.headers.get("host")):
            return HttpRefusal(
                403, f"the Host is no name of this process: ask by address, or list it in {self._where}"
            )
        if _is_of_a_web_page(request.headers) and not (self._has_pages and _is_of_our_own(request.headers)):
            return HttpRefusal(403, "web pages are not answered")
        if audience == "anyone" or (audience == "reader" and self._token is None) or self.is_operator(request):
            return None
        if self._token is not None:
            return HttpRefusal(401, "give the token of admin.token: Authorization: Bearer …")
        return HttpRefusal(403, "only from this machine, as `sidecar drain` does, or with admin.token set")

    def is_operator(self, request: Request) -> bool:
        if self._token is not None:
            given = request.headers.get("authorization", "")
            return hmac.compare_digest(given.encode(), f"{_BEARER}{self._token}".encode())
        return request.is_own_machine and not any(name in request.headers for name in _FORWARDED)

    def _is_known(self, host: str | None) -> bool:
        """Whether this Host cannot be a name that some web page's owner points here (DNS rebinding).

        An address cannot, nor a name without a dot, which no stranger can register. Only HTTP/1.0 comes without.
        """
        if host is None:
            return True
        name = without_port(host).rstrip(".")
        return is_address(name) or _WITHOUT_DOT.fullmatch(name) is not None or name in self._hosts


def _is_of_a_web_page(headers: Mapping[str, str]) -> bool:
    return "origin" in headers or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _is_of_our_own(headers: Mapping[str, str]) -> bool:
    """Whether a page from this very address asks. Browsers name its origin where it loads its modules."""
    host, origin = headers.get("host"), headers.get("origin")
    is_same = origin is None or (host is not None and origin in (f"http://{host}", f"https://{host}"))
    return is_same and headers.get("sec-fetch-site", "same-origin") in ("none", "same-origin")


def without_port(host: str) -> str:
    """The name of a Host header, in small letters; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdigit() else host.lower()


def is_address(name: str) -> bool:
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    elif ":" in name:
        return False
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
