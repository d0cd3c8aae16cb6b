"""Who may ask: by which names the service is addressed, and from which pages a browser may post to it."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

#: Among the names of a service: whatever is an address of IPv4 or IPv6. None can be made to mean another machine, as a
#: name can (DNS rebinding).
ADDRESSES = "an IP address"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: A name, or *. before one, or an address, IPv6 in brackets; and a port, if need be.
_AUTHORITY = re.compile(r"(?P<host>(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?")
_PORTS = {"http": "80", "https": "443"}


def names_of(host: str, allowed: Collection[str] = ()) -> frozenset[str]:
    """By what names a service may be addressed that listens on `host`.

    On loopback those of loopback; beyond it those of this machine, and any address; and `allowed`, without their ports.
    """
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    own = _LOOPBACK if local else {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), ADDRESSES}
    return frozenset({*own, shown(host).lower(), *(_split(name)[0] for name in allowed)})


def shown(host: str) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def check(allowed: Collection[str]) -> None:
    """Refuse what is no name of a host.

    Raises
    ------
    ValueError
        It says what was expected.
    """
    for name in allowed:
        if _AUTHORITY.fullmatch(name.lower()) is None:
            raise ValueError(
                "allowed-host: expected a host's name as browsers show it, with a port if need be and *. for any "
                f"subdomain, such as explain.example.com; got {name!r}"
            )


class Access:
    """ASGI middleware that refuses what a browser sends for pages other than the service's own.

    Starlette's TrustedHostMiddleware can't admit any address, so that nobody could ask a service in a container by its
    machine's address, and does not answer in JSON; its older releases cut IPv6 at the first colon. Names and wildcards
    mean the same here.

    Parameters
    ----------
    app : ASGI application
    hosts : collection of str, optional
        The names, without a port, by which the service may be addressed; ``*.example.com`` is any subdomain, and
        :data:`ADDRESSES` any address. They keep out a page whose name has been made to mean this machine. Default: any.
    origins : collection of str
        The names, with a port if need be, whose pages may post, too: those that a proxy in front of the service has.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None, origins: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = hosts if hosts is None else frozenset(hosts)
        self.origins = [_split(name) for name in origins]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            self._check_host(host)
            if scope["method"] not in ("GET", "HEAD"):
                self._check_page(headers, host)
        await self.app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        if self.hosts is None:
            return
        match = _AUTHORITY.fullmatch(host.lower())
        name = "" if match is None else match["host"]
        named = any(_matches(name, pattern) for pattern in self.hosts)
        if not name or not (named or (ADDRESSES in self.hosts and _is_address(name))):
            expected = ", ".join(sorted(self.hosts))
            raise HTTPException(403, f"Host: expected {expected}; got {host!r}; --allowed-host NAME allows another")

    def _check_page(self, headers: Headers, host: str) -> None:
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none"):
            raise HTTPException(403, f"Sec-Fetch-Site: expected a request of this service's own page; got {site!r}")
        # Not sent with the one above to names beyond loopback, unless over https.
        for origin in headers.getlist("origin"):
            if not self._own(origin.lower(), host.lower()):
                raise HTTPException(
                    403,
                    f"Origin: expected a page of {host}; got {origin!r}; --allowed-host NAME allows a proxy's name",
                )

    def _own(self, origin: str, host: str) -> bool:
        """Whether a page is the service's: of the name and port that the request is for, or of one that is allowed."""
        scheme, _, authority = origin.partition("://")
        default = _PORTS.get(scheme)
        if default is None or _AUTHORITY.fullmatch(authority) is None or urlsplit(origin).netloc != authority:
            return False
        name, port = _split(authority)
        asked_name, asked_port = _split(host) if _AUTHORITY.fullmatch(host) else ("", None)
        if (name, port or default) == (asked_name, asked_port or default):
            return True
        return any(_matches(name, pattern) and (port or default) == (at or default) for pattern, at in self.origins)


def _split(authority: str) -> tuple[str, str | None]:
    match = _AUTHORITY.fullmatch(authority.lower())
    assert match is not None  # checked before
    return match["host"], match["port"]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
