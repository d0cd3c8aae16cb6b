"""What this machine's processes listen on: nothing of a service but the address that was asked for."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv6Address, ip_address

import psutil


def beyond_loopback() -> set[tuple[int, str, str, int]]:
    """The process, its name, the address and the port of all that this process and its children listen on."""
    found = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        # One that has ended since listens no more.
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found |= {
                (process.pid, process.name(), one.laddr.ip, one.laddr.port)
                for one in process.net_connections("inet")
                if one.status == psutil.CONN_LISTEN and not _loopback(one.laddr.ip)
            }
    return found


def check(host: str, port: int, before: set[tuple[int, str, str, int]]) -> None:
    """Refuse to go on where something else of a service listens beyond loopback.

    Ray is asked to keep to loopback in two ways that are not its public interface; if a later Ray does otherwise, this
    finds it.

    Parameters
    ----------
    host, port : str, int
        Where the service was asked to listen.
    before : set
        What :func:`beyond_loopback` found before Ray was started: the user's own.

    Raises
    ------
    RuntimeError
        With what listens where.
    """
    others = sorted(one for one in beyond_loopback() - before if one[-1] != port)
    if others:
        told = ", ".join(f"{name} ({pid}) listens at {ip}:{at}" for pid, name, ip, at in others)
        raise RuntimeError(f"expected nothing but {host}:{port} to listen beyond loopback; {told}")


def _loopback(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    return ((found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found).is_loopback
