"""Ray, started or found: for the service and for runs on many machines."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

_NEEDED = {
    "ray": "ray",
    "fastapi": "ray[serve]",
    "python_multipart": "python-multipart",
    "pyarrow": "ray[data]",
    "prometheus_client": "prometheus-client",
    "psutil": "psutil",
}
#: Seconds that a cluster has to answer.
PATIENCE = 10
_SINGLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def prepare(address: str | None = None) -> None:
    """See to it that Ray is installed and, where :func:`connected` is to start it, starts on loopback.

    To be called before Ray is imported, which is when it reads its environment.

    Raises
    ------
    ModuleNotFoundError
        Without the extra; it says what is missing, and how to get it.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"{', '.join(missing)} not installed; pip install 'cfcam-gpu[ray]'")
    if own(address) and "ray" not in sys.modules:
        # Ray's way to be a cluster of one machine, which is its default on macOS and Windows: all of its servers then
        # listen on 127.0.0.1 alone, to processes of this user. And it reports to nobody.
        os.environ[_SINGLE] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        # What workers say is passed on with their names in colour, into a file, too.
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")


@contextmanager
def connected(address: str | None = None, *, cpus: int | None = None) -> Iterator[None]:
    """Ray for as long as the context lasts.

    Parameters
    ----------
    address : str, optional
        Of a cluster: ``"auto"``, ``"host:port"`` or ``"ray://host:port"``. Without one, and without RAY_ADDRESS in the
        environment, one is started on this machine, for this process.
    cpus : int, optional
        How many that one has; as many as the machine otherwise.

    Raises
    ------
    ModuleNotFoundError
        Without the extra.
    RuntimeError
        If Ray was imported before :func:`prepare`, so that its servers would listen on all interfaces.
    ConnectionError
        If there is no cluster at that address.
    """
    prepare(address)
    import ray

    options: dict[str, Any] = {"address": address or "auto"}
    if own(address):
        if not loopback():
            raise RuntimeError(f"Ray would listen on all interfaces: import it later, or set {_SINGLE}=0 before")
        options = {"num_cpus": cpus, "include_dashboard": False}
    else:
        _check_reachable(address or os.environ["RAY_ADDRESS"])
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(**options, logging_level="warning")
    if callable(handler):  # Ray has set its own, which would end the process without a word
        _handle_terms(handler)
    meanwhile = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        ray.shutdown()
        if signal.getsignal(signal.SIGTERM) == meanwhile:  # Ray's, or the one that was there, and nobody's own
            _handle_terms(handler)


def _handle_terms(handler: Any) -> None:
    """Have SIGTERM handled as before Ray, which leaves it alone in other threads than the main one."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _check_reachable(address: str) -> None:
    """See that somebody listens at an address: Ray itself asks again and again, and does not end."""
    found = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)
    if found is None:  # "auto" and the like, which Ray resolves
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:  # the latter of a port that can't be
        raise ConnectionError(
            f"ray_address: expected the address of a Ray cluster, host:port; nobody listens at {address}: {error}"
        ) from None


def loopback() -> bool:
    """Whether the cluster that this process starts, or is part of, is on loopback alone."""
    import ray

    address: str = ray.util.get_node_ip_address()
    return address.startswith("127.")


def own(address: str | None = None) -> bool:
    """Whether :func:`connected` starts a cluster, instead of going to one."""
    return address is None and not os.environ.get("RAY_ADDRESS")
