"""Ray Serve: replicas that each load the model once, and explain what arrives together as one batch."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from ..photographs.options import Settings
from ..pipelines import ray_session
from . import app
from .backend import Answer, Backend, Limits, Question

NAME = "cfcam-gpu"
#: Seconds after which a client that was refused for a full queue may try again.
RETRY_AFTER = 1
#: Requests that a replica is busy with at most, being read, decoded, explained and written: as many as fill this many
#: batches, and no fewer than that many.
BATCHES, ONGOING = 4, 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the service runs.

    Parameters
    ----------
    settings : Settings
    limits : Limits
    replicas : int
        Each has the model once: on a GPU of its own where there is one, else with its share of the cores.
    batch_size : int
        Images that are explained together at most.
    batch_wait : float
        Seconds that the first of a batch waits for more.
    queue : int
        Requests that may wait for a replica; one more is told to come back.
    """

    settings: Settings = field(default_factory=Settings)
    limits: Limits = field(default_factory=Limits)
    replicas: int = 1
    batch_size: int = 8
    batch_wait: float = 0.01
    queue: int = 256


@serve.deployment(name="explainer")
@serve.ingress()
class Replica:
    """One model and its batches."""

    def __init__(self, options: Options, hosts: frozenset[str] | None) -> None:
        _keep_to_loopback()
        self.hosts = hosts
        self.backend = Backend(options.settings, options.limits)
        self.explain.set_max_batch_size(options.batch_size)
        self.explain.set_batch_wait_timeout_s(options.batch_wait)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, around this replica's model."""
        return app.build(self.backend, self.explain, hosts=self.hosts)

    @serve.batch  # type: ignore[untyped-decorator]
    async def explain(self, questions: list[Question]) -> list[Answer | Exception]:
        """One batch at a time, in a thread: the event loop reads and decodes the next meanwhile."""
        return await asyncio.to_thread(self.backend.explain, questions)

    def check_health(self) -> None:
        """Ray Serve asks now and then, and puts another replica in the place of one that raises.

        Raises
        ------
        Exception
            As :meth:`cfcam_gpu.service.backend.Backend.check`.
        """
        self.backend.check()


def _keep_to_loopback() -> None:
    """On a cluster on loopback alone, have this process's replica listen there, too.

    Its gRPC server, which needs the cluster's token, is the one that Ray binds to all interfaces whatever the cluster
    is (``[::]:0`` in ray.serve._private.replica, Ray 2.60); it is started after the replica's constructor.
    """
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    if ray_session.loopback():
        replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))


@contextmanager
def running(options: Options, *, host: str = "127.0.0.1", port: int = 8000) -> Iterator[str]:
    """The service for as long as the context lasts; its URL.

    Parameters
    ----------
    options : Options
    host, port : str, int
        What the HTTP server is bound to.

    Raises
    ------
    ValueError, OSError
        If there are fewer GPUs than replicas, or the port is taken.
    FileNotFoundError, ImportError, TypeError, ValueError, RuntimeError
        As :class:`Backend`.
    """
    _check_port(host, port)
    with ray_session.connected():
        resources = _resources(options)
        _check(options, resources)
        serve.start(http_options={"host": host, "port": port})
        try:
            deployment = Replica.options(  # type: ignore[attr-defined]
                num_replicas=options.replicas,
                ray_actor_options=resources,
                max_ongoing_requests=max(ONGOING, BATCHES * options.batch_size),
                max_queued_requests=options.queue,
                backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER),
                logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
            )
            serve.run(deployment.bind(options, names_of(host)), name=NAME)
            shown = _shown(host)
            yield f"http://{shown}:{port}/"
        finally:
            serve.shutdown()


def names_of(host: str) -> frozenset[str] | None:
    """By what names a service that listens on `host` may be addressed: on loopback those of loopback, else any."""
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    return frozenset({"localhost", "127.0.0.1", "[::1]", _shown(host)}) if local else None


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _resources(options: Options) -> dict[str, float]:
    """What each replica gets. Ray gives torch as many threads as CPUs: of a cluster of our own, all of them."""
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 1), there.get("GPU", 0)
    share = cpus / options.replicas
    if options.settings.device == "cpu" or not gpus:
        return {"num_cpus": int(share) if share >= 1 and ray_session.own() else min(1, share)}
    if options.replicas > gpus:
        raise ValueError(f"replicas: each needs a GPU, and there are {gpus:g}; got {options.replicas}")
    return {"num_cpus": min(1, share), "num_gpus": 1}


def _check(options: Options, resources: dict[str, float]) -> None:
    """Load the model once in a process that ends: Ray Serve would try again and again before it says what is wrong."""

    @ray.remote(**resources, max_calls=1, max_retries=0)  # type: ignore[untyped-decorator]
    def load() -> None:
        Backend(options.settings, options.limits)

    try:
        ray.get(load.remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"port: {host}:{port} can't be bound: {error.strerror or error}") from None
