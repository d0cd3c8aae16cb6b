"""The HTTP server: a process of its own, which hands images to the replicas and ends without cutting off a request.

Ray Serve's own proxy has no limit on headers, and is killed with the requests that are under way when Serve ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
import sys
import time
from collections.abc import Collection
from contextlib import suppress

import h11
import ray
import uvicorn
from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import app
from .backend import Answer, DeviceError, Question, Served, UnavailableError
from .traffic import HEADER_BYTES, Traffic

#: Seconds that requests under way may take to be answered once the service is told to end.
DRAIN = 60.0
#: Seconds that connections without a request are listened to, then, for one that is on its way.
GRACE = 5
#: Seconds that a connection whose beginning has been seen takes to be made: shorter than a client waits to begin again.
HANDSHAKE = 0.5
#: Linux's socket option, which Python has no name for.
SO_ATTACH_FILTER = 26
#: Seconds that an idle connection is kept for its client's next request: longer than proxies keep theirs, most of which
#: close after 60, so that none sends on one that is being closed.
KEEP_ALIVE = 75
#: Seconds between two looks at the replicas, for /ready.
LOOK = 1.0
#: How often an image whose replica is lost is given to another.
ATTEMPTS = 5


class Protocol(H11Protocol):
    """uvicorn's, with h11's limit on headers told as what it is: 431."""

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            # Of a body that is broken off: its request has nobody to answer any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        content = f'{{"error": "{"headers: too long" if status == 431 else "not a request of HTTP"}"}}'.encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content))), ("Connection", "close")]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's, which on ending first answers what it was asked on every connection that it has."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, answer what comes on those there are, and close them."""
        # Those on the way would be reset when the socket closes: no more are let begin, and then all are accepted.
        for sock in sockets or ():
            _begin_no_more(sock)
        await asyncio.sleep(HANDSHAKE)
        # asyncio loses one that it has accepted, and has not made yet, where the server closes in between.
        loop = asyncio.get_running_loop()
        for sock in sockets or ():
            loop.remove_reader(sock)
        await asyncio.sleep(0)
        for listening in self.servers:
            listening.close()
        await asyncio.sleep(0.05)  # until uvicorn has heard of each
        # uvicorn would close those that have not asked yet, with their requests on the way.
        until = time.monotonic() + GRACE
        while self.server_state.connections and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
        await asyncio.sleep(0)  # what was cut off comes to its end


def _begin_no_more(sock: socket.socket) -> None:
    """Let the system drop the packets by which connections begin; their clients try again after a second.

    Source: Linux's ``filter.h`` and packet(7); a TCP socket's filter sees a packet from its TCP header on. Elsewhere
    connections begin until the socket closes.
    """
    if sys.platform != "linux":
        return
    # Each: operation, where to go on if true, if false, value. Byte 13 has the flags, of which 2 is SYN.
    steps = [(0x30, 0, 0, 13), (0x45, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    with suppress(OSError):  # a sandbox may not let it
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(program)))


class ProxyActor:
    """Listens, and asks the replicas.

    Parameters
    ----------
    served : Served
    replicas : DeploymentHandle
        Of the deployment's replicas.
    at_once : int
        Images that all replicas together are busy with at most.
    places : int
        Requests that may be under way.
    application : str
        Its name in Ray Serve.
    hosts, origins : collection of str
        As :func:`.app.build`.
    """

    def __init__(
        self,
        served: Served,
        replicas: DeploymentHandle,
        *,
        at_once: int,
        places: int,
        application: str,
        hosts: Collection[str],
        origins: Collection[str],
    ) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
        # What clients do wrong, they are told; nobody else need be.
        for name in ("uvicorn.error", "python_multipart"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # That a replica is lost, the controller tells; the router would once for each request.
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        self._replicas, self._application = replicas, application
        self._traffic = Traffic(places)
        self._room = asyncio.Semaphore(at_once)
        self._waiting = 0
        #: Whether a replica's device was out of order when last asked.
        self._fault = False
        self._looked, self._running = 0.0, True
        built = app.build(
            served, self.explain, hosts=hosts, origins=origins, state=self._traffic, unready=self._unready
        )
        self._server = Server(
            uvicorn.Config(
                built, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
                proxy_headers=False, h11_max_incomplete_event_size=2 * HEADER_BYTES, timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=int(DRAIN), backlog=2048,
            )
        )  # fmt: skip
        self._serving: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> None:
        """Take requests at an address.

        Raises
        ------
        OSError
            If it can't be bound.
        """
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.setblocking(False)
        self._serving = asyncio.create_task(self._server.serve(sockets=[sock]))
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def ended(self) -> None:
        """Wait for the end of the server."""
        assert self._serving is not None  # it listens
        await asyncio.shield(self._serving)

    async def drain(self) -> int:
        """Take no more requests, and answer those that are under way; how many were cut off after all."""
        self._traffic.draining = True
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
        return self._traffic.cut_off

    async def explain(self, question: Question) -> Answer | Exception:
        """A replica's answer."""
        came = time.perf_counter()
        self._waiting += 1
        self._traffic.metrics.queue.set(self._waiting)
        try:
            await self._room.acquire()
        finally:
            self._waiting -= 1
            self._traffic.metrics.queue.set(self._waiting)
        try:
            answer = await self._asked(question)
        finally:
            self._room.release()
        if isinstance(answer, DeviceError):
            self._fault = True
            self._traffic.metrics.errors.labels("device").inc()
        if not isinstance(answer, Answer):
            return answer
        self._fault = False
        elsewhere = time.perf_counter() - came - sum(answer.seconds.values())
        return answer._replace(seconds={"queue": max(0.0, elsewhere), **answer.seconds})

    async def _asked(self, question: Question) -> Answer | Exception:
        for attempt in range(1, ATTEMPTS + 1):
            response = self._replicas.explain.remote(question)
            try:
                found: Answer | Exception = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except ray.exceptions.RayActorError as error:
                # The replica is gone, and with it nothing but this answer.
                self._traffic.metrics.errors.labels("replica").inc()
                if attempt == ATTEMPTS:
                    return UnavailableError(str(error))
                await asyncio.sleep(0.1 * 2**attempt)
            except DeploymentUnavailableError as error:
                return UnavailableError(error.message)
            except Exception as error:
                return error
            else:
                return found
        raise AssertionError("unreachable")

    async def _unready(self) -> str | None:
        """Why no replica can answer, or None."""
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            self._running = await asyncio.to_thread(self._any_running)
        if not self._running:
            return "no replica is running"
        if self._fault:
            with suppress(Exception):
                async with asyncio.timeout(LOOK):
                    self._fault = not await self._replicas.in_order.remote()
        return "the device of a replica is out of order" if self._fault else None

    def _any_running(self) -> bool:
        found = serve.status().applications.get(self._application)
        states = [] if found is None else [one.replica_states for one in found.deployments.values()]
        return any(state.get("RUNNING", 0) for state in states)
