"""Ray Serve: replicas that each load the model once, and explain what arrives together as one batch."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.serve.schema import LoggingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..image_files import photos
from ..named_models.options import Settings
from ..pipelines import ray_session
from . import access, listening
from .backend import Answer, Backend, Explained, Limits, Question, Seen, Served, by_method, encode
from .decoding import Decoder
from .proxy import DRAIN, GRACE, ProxyActor

NAME = "cfcam-gpu"
#: Images that a replica is busy with at most, being decoded, explained and encoded: as many as fill this many batches,
#: and no fewer than that many.
BATCHES, ONGOING = 4, 64
#: Pixels that a replica decodes at once, unless one image may have more.
PIXELS = Limits().pixels
#: Threads that decode in a replica, at least and at most.
THREADS = (2, 8)
#: Seconds between two questions of Ray Serve whether a replica's device is in order; after three of no it is replaced.
HEALTH = 2.0
#: Seconds between two looks at what is being loaded, and of Ray Serve at what a replica that ends still answers.
POLL = 0.2


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the service runs.

    Parameters
    ----------
    settings : Settings
    limits : Limits
    components : int, optional
        Groups of channels that each answer names.
    replicas : int
        Each has the model once: on a GPU of its own where there is one, else with its share of the cores.
    batch_size : int
        Images that are explained together at most.
    batch_wait : float
        Seconds that the first of a batch waits for more.
    queue : int
        Requests that may wait for a replica; one more is told to come back.
    allowed_hosts : sequence of str
        Names by which the service may be addressed beside its own: a proxy's.
    """

    settings: Settings = field(default_factory=Settings)
    limits: Limits = field(default_factory=Limits)
    components: int | None = None
    replicas: int = 1
    batch_size: int = 8
    batch_wait: float = 0.01
    queue: int = 256
    allowed_hosts: Collection[str] = ()

    @property
    def ongoing(self) -> int:
        """Images that a replica is busy with at most."""
        return max(ONGOING, BATCHES * self.batch_size)


class _Found(NamedTuple):
    """What a batch has of one image; how long it waited for it and took; the batch's size, for the first of it."""

    explained: Explained | Exception
    began: float
    took: float
    batch: int


@serve.deployment(name="explainer")
class Replica:
    """One model and its batches."""

    def __init__(self, options: Options) -> None:
        _keep_to_loopback()
        photos.quiet()
        self.backend = Backend(options.settings, options.limits, options.components)
        threads = min(max((os.cpu_count() or 1) // options.replicas, THREADS[0]), THREADS[1])
        self.decoder: Decoder[Seen] = Decoder(threads, max(options.limits.pixels, PIXELS))
        self.together.set_max_batch_size(options.batch_size)
        self.together.set_batch_wait_timeout_s(options.batch_wait)

    async def explain(self, question: Question) -> Answer | Exception:
        """The answer to one question, or why there is none."""
        if self.backend.fault is not None:
            return self.backend.fault
        came = time.perf_counter()
        try:
            seen = await self.decoder.run(lambda: self.backend.see(question), question.data)
        except photos.UnreadableError as error:
            return error
        decoded = time.perf_counter()
        found: _Found = await self.together(seen)
        if isinstance(found.explained, Exception):
            return found.explained
        explained = time.perf_counter()
        answer = await asyncio.to_thread(encode, found.explained)
        seconds = {
            "decode": decoded - came,
            "batch": found.began - decoded,
            "explain": found.took,
            "encode": time.perf_counter() - explained,
        }
        return answer._replace(seconds=seconds, batch=found.batch)

    @serve.batch  # type: ignore[untyped-decorator]
    async def together(self, questions: list[Seen]) -> list[_Found]:
        """One batch at a time, in a thread: the event loop and the decoder get the next ready meanwhile.

        What came together is a batch for each method that it asks for.
        """
        found: dict[int, _Found] = {}
        for places in by_method([seen.question for seen in questions]):
            began = time.perf_counter()
            explained = await asyncio.to_thread(self.backend.explain_seen, [questions[i] for i in places])
            took = time.perf_counter() - began
            for i, one in zip(places, explained):
                found[i] = _Found(one, began, took, 0 if i != places[0] else len(places))
        return [found[i] for i in range(len(questions))]

    def in_order(self) -> bool:
        """Whether the device is."""
        return self.backend.fault is None

    def check_health(self) -> None:
        """Ray Serve asks now and then, and puts another replica in the place of one that raises.

        Raises
        ------
        DeviceError
            As :meth:`cfcam_gpu.service.backend.Backend.check`.
        """
        self.backend.check()


def _keep_to_loopback() -> None:
    """On a cluster on loopback alone, have this process's replica listen there, too.

    Its gRPC server, which needs the cluster's token, is the one that Ray binds to all interfaces whatever the cluster
    is (``[::]:0`` in ray.serve._private.replica, Ray 2.60: why pyproject.toml has a bound on Ray's release); it is
    started after the replica's constructor.
    """
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    if ray_session.loopback():
        replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))


class Service:
    """A service that runs."""

    def __init__(
        self,
        options: Options,
        resources: dict[str, float],
        served: Served,
        application: str,
        hosts: Collection[str],
    ) -> None:
        self._options, self._resources, self._served, self._application = options, resources, served, application
        replicas = serve.run(self._target(), name=application, route_prefix=None)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(ProxyActor).options(num_cpus=0, scheduling_strategy=here, max_concurrency=1000)
        at_once = options.replicas * options.ongoing
        self._proxy: ActorHandle = actor.remote(
            served,
            replicas,
            at_once=at_once,
            places=at_once + options.queue,
            application=application,
            hosts=hosts,
            origins=options.allowed_hosts,
        )
        #: Whether it is about to end, so that no restart goes on.
        self.ending = False
        self.url = ""

    @property
    def about(self) -> dict[str, Any]:
        """What ``/health`` says of the model."""
        return self._served.about

    def listen(self, host: str, port: int) -> None:
        """Take requests at an address.

        Raises
        ------
        OSError
            If it can't be bound.
        """
        ray.get(self._proxy.listen.remote(host, port))
        self._ended = self._proxy.ended.remote()
        self.url = f"http://{access.shown(host)}:{port}/"

    def restart(self) -> None:
        """Put new replicas in the places of the old ones, one after another, while requests are answered.

        A service that is ending is left as it is.

        Raises
        ------
        FileNotFoundError, ImportError, TypeError, ValueError, RuntimeError
            As :class:`Backend`, if the model can't be loaded any more or has other classes; the old replicas stay then.
        """
        if "num_gpus" not in self._resources:  # else the replicas may have them all
            found = _load(self._options, {"num_cpus": 0}, lambda: self.ending)
            if found is not None and found.class_names != self._served.class_names:
                expected, got = len(self._served.class_names), len(found.class_names)
                raise ValueError(f"model: expected the {expected} classes that it had; got {got}; stop the service")
        if self.ending:
            return
        target = serve.RunTarget(self._target(), name=self._application, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)
        while not self.ending:
            there = serve.status().applications[self._application]
            if there.status == "DEPLOY_FAILED":
                raise RuntimeError(f"replicas: {there.message}")
            if there.status == "RUNNING":
                return
            time.sleep(POLL)

    def check(self) -> None:
        """Whether the server is there still.

        Raises
        ------
        RuntimeError
            If it is not.
        """
        if ray.wait([self._ended], timeout=0)[0]:
            try:
                ray.get(self._ended)
            except ray.exceptions.RayError as error:
                raise RuntimeError(f"the server has ended: {str(error).splitlines()[0]}") from None

    def drain(self) -> None:
        """Take no more requests, and answer those that are under way, as far as they keep to DRAIN."""
        self.ending = True
        cut_off = 0
        with suppress(ray.exceptions.RayActorError):  # there is no server, as check() says
            cut_off = ray.get(self._proxy.drain.remote(), timeout=DRAIN + 2 * GRACE)
        if cut_off:
            print(f"{cut_off} requests had no answer after {DRAIN:g} seconds", file=sys.stderr)

    def _target(self) -> serve.Application:
        options = self._options
        deployment = Replica.options(  # type: ignore[attr-defined]
            num_replicas=options.replicas,
            ray_actor_options=self._resources,
            max_ongoing_requests=options.ongoing,
            health_check_period_s=HEALTH,
            graceful_shutdown_wait_loop_s=POLL,
            logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        )
        return deployment.bind(options)


@contextmanager
def running(options: Options, *, host: str = "127.0.0.1", port: int = 8000) -> Iterator[Service]:
    """The service for as long as the context lasts; at its end what is under way is answered first.

    Parameters
    ----------
    options : Options
    host, port : str, int
        What the HTTP server is bound to.

    Raises
    ------
    ValueError, OSError
        If there are fewer GPUs than replicas, a name is none, or the port is taken.
    FileNotFoundError, ImportError, TypeError, ValueError, RuntimeError
        As :class:`Backend`; RuntimeError, too, if anything else of the service would listen beyond loopback.
    """
    access.check(options.allowed_hosts)
    _check_port(host, port)
    before = listening.beyond_loopback()
    with ray_session.connected():
        resources = _resources(options)
        served = _load(options, resources)
        assert served is not None  # nobody gave it up
        with _serve():
            # Several services may share a cluster.
            application = f"{NAME}-{uuid4().hex[:8]}"
            try:
                service = Service(options, resources, served, application, access.names_of(host, options.allowed_hosts))
                if ray_session.own():
                    listening.check(host, port, before)
                service.listen(host, port)
                try:
                    yield service
                finally:
                    service.drain()
            finally:
                if not ray_session.own():
                    serve.delete(application)


@contextmanager
def _serve() -> Iterator[None]:
    """Ray Serve without a server of its own; at the end it is shut down, unless others use it, or Ray ends anyway."""
    log = logging.getLogger("ray.serve")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="Disabled", logging_config=LoggingConfig(log_level="WARNING"))
        try:
            yield
        finally:
            if not (ray_session.own() or serve.status().applications):
                serve.shutdown()
    finally:
        log.setLevel(level)


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


def _load(options: Options, resources: dict[str, float], given_up: Callable[[], bool] = lambda: False) -> Served | None:
    """Load the model once in a process that ends: Ray Serve would try again and again before it says what is wrong.

    None where it is `given_up` meanwhile.
    """
    # Not the options: with them the process would import this module, and all that serves.
    settings, limits, components = options.settings, options.limits, options.components

    @ray.remote(**resources, max_calls=1, max_retries=0)  # type: ignore[untyped-decorator]
    def load() -> Served:
        found = Backend(settings, limits, components)
        return Served(found.about, found.limits, found.class_names)

    loading = load.remote()
    while not ray.wait([loading], timeout=POLL)[0]:
        if given_up():
            ray.cancel(loading, force=True)
            return None
    try:
        return ray.get(loading)  # type: ignore[no-any-return]
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
