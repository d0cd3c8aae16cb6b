"""The HTTP server without Ray: what holds for every connection, and how it ends."""

import asyncio
import http.client
import logging
import random
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest
import requests

from cfcam_gpu.pipelines import ray_session
from cfcam_gpu.service.backend import Answer, DeviceError, Question, Served

from ..services import LIMITS, address, backend, picture

# Ray's own settings, when ray.serve is imported.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")


class Replicas:
    """In the place of a handle: answers after `delay` seconds, or as it is told to."""

    def __init__(self, answering, delay=0.0):
        self.answering, self.delay, self.told, self.asked, self.dropped = answering, delay, [], 0, 0
        self.explain = self.in_order = self
        self.fine = True

    def remote(self, question=None):
        return _Response(self, question)


class _Response:
    def __init__(self, replicas, question):
        self.replicas, self.question = replicas, question

    def cancel(self):
        self.replicas.dropped += 1

    def __await__(self):
        return self._answer().__await__()

    async def _answer(self):
        replicas = self.replicas
        if self.question is None:
            return replicas.fine
        replicas.asked += 1
        await asyncio.sleep(replicas.delay)
        told = replicas.told.pop(0) if replicas.told else None
        if told is not None and not isinstance(told, DeviceError):
            raise told
        return told or (await asyncio.to_thread(replicas.answering.explain, [self.question]))[0]


@pytest.fixture(scope="module")
def answering():
    return backend()


@pytest.fixture
def proxy(monkeypatch):
    """The module; Ray, which it imports, reads its environment then, for other tests of the process, too."""
    ray_session.prepare()
    from cfcam_gpu.service import proxy

    monkeypatch.setattr(proxy, "GRACE", 1)  # answers that a test holds keep their connections
    return proxy


@pytest.fixture
def lost(proxy):
    """What a call to a replica raises that is no more."""
    return proxy.ray.exceptions.RayActorError()


@pytest.fixture
def ending(proxy, answering):
    """Starts a proxy, to which clients connect while it ends."""
    return partial(_listening, proxy, answering)


@pytest.fixture
def listening(ending, proxy, monkeypatch):
    """Starts a proxy, to which nobody connects any more when it ends."""
    monkeypatch.setattr(proxy, "HANDSHAKE", 0.01)
    return ending


@contextmanager
def _listening(proxy, answering, *, delay=0.0, at_once=64, places=64):
    """A proxy in a thread; its URL, what it asks, and itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    async def made():
        found = proxy.ProxyActor(
            Served(answering.about, LIMITS, answering.class_names), replicas, at_once=at_once, places=places,
            application="none", hosts={"127.0.0.1"}, origins=(),
        )  # fmt: skip
        await found.listen("127.0.0.1", port)
        return found

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    replicas = Replicas(answering, delay)
    try:
        found = run(made())
        found._any_running = lambda: True
        try:
            yield f"http://127.0.0.1:{port}", replicas, lambda: run(found.drain())
        finally:
            run(found.drain())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ask(url, **options):
    return requests.post(f"{url}/explain?map=none", data=picture(), timeout=30, **options)


@pytest.mark.parametrize("kept", [True, False], ids=["connections kept", "a connection each"])
def test_ending_under_load_answers_what_was_asked(proxy, ending, kept, monkeypatch):
    # What a client of a busy machine has not sent yet is waited for.
    monkeypatch.setattr(proxy, "GRACE", 30)
    seen, twice, body = Counter(), threading.Barrier(17), picture()
    with ending(delay=0.1) as (url, _, drain):

        def client():
            for turn in count():
                if turn == 0 or not kept:
                    connection = http.client.HTTPConnection(*address(url), timeout=60)
                try:
                    if connection.sock is None:
                        connection.connect()
                except ConnectionError:
                    seen["refused"] += 1
                    return
                connection.request("POST", "/explain?map=none", body)
                answer = connection.getresponse()
                answer.read()
                seen[answer.status, answer.getheader("Connection")] += 1
                if not kept:
                    connection.close()
                if turn == 1:
                    twice.wait(60)

        with ThreadPoolExecutor(16) as pool:
            clients = [pool.submit(client) for _ in range(16)]
            twice.wait(60)  # for all of them to have been answered twice, and to ask again
            time.sleep(random.uniform(0, 0.3))
            assert drain() == 0
            for one in clients:
                one.result()
    assert seen.pop((200, None)) >= 32
    assert seen.pop((200, "close")) >= (16 if kept else 1)  # a kept connection takes one more request
    assert seen.pop("refused") == 16
    assert seen == {}


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_no_connection_begins_and_those_there_are_heard(proxy):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as there:
        proxy._begin_no_more(server)
        with pytest.raises(TimeoutError):
            socket.create_connection(server.getsockname(), timeout=0.3)
        accepted, _ = server.accept()
        with accepted:
            there.sendall(b"asked")
            assert accepted.recv(5) == b"asked"
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_connection_that_has_not_asked_yet_is_heard_when_it_ends(ending):
    with (
        ending() as (url, _, drain),
        socket.create_connection(address(url)) as late,
        ThreadPoolExecutor(1) as pool,
    ):
        drained = pool.submit(drain)
        time.sleep(0.3)
        late.sendall(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = late.makefile().read()
        drained.result()
    assert answer.startswith("HTTP/1.1 503 Service Unavailable")
    assert answer.endswith('{"error":"not ready: the service is ending"}')


def test_what_takes_too_long_is_cut_off_and_counted(listening, proxy, monkeypatch):
    monkeypatch.setattr(proxy, "DRAIN", 1)
    monkeypatch.setattr(proxy, "GRACE", 0)
    with listening(delay=60) as (url, replicas, drain), ThreadPoolExecutor(1) as pool:
        late = pool.submit(ask, url)
        while not replicas.asked:
            time.sleep(0.01)
        assert drain() == 1
        assert (late.result().status_code, late.result().json()) == (503, {"error": "the service has ended"})


def test_a_lost_replica_loses_no_answer(proxy, listening, lost, caplog, monkeypatch):
    monkeypatch.setattr(proxy, "ATTEMPTS", 2)  # each waits twice as long as the one before
    with listening() as (url, replicas, _):
        replicas.told = [lost]
        assert ask(url).status_code == 200
        assert replicas.asked == 2
        replicas.told = [lost] * 9
        answer = ask(url)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert 'cfcam_errors_total{kind="replica"} 3.0' in requests.get(f"{url}/metrics", timeout=9).text
    assert caplog.records == []


def test_readiness_follows_the_device(listening, proxy, monkeypatch):
    monkeypatch.setattr(proxy, "LOOK", 0.2)
    with listening() as (url, replicas, _):

        def ready():
            answer = requests.get(f"{url}/ready", timeout=9)
            return answer.status_code, *answer.json().values()

        assert ready() == (200, "ready")
        replicas.fine, replicas.told = False, [DeviceError("CUDA error")]
        assert ask(url).status_code == 503
        assert ready() == (503, "not ready: the device of a replica is out of order")
        replicas.fine = True  # another one
        assert ready() == (200, "ready")
        assert requests.get(f"{url}/live", timeout=9).status_code == 200


def test_more_requests_than_places_are_told_to_come_back(listening):
    with listening(delay=0.5, at_once=2, places=4) as (url, _, _), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(url), range(8)))
        assert Counter(answer.status_code for answer in answers) == {200: 4, 429: 4}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json() == {"error": "busy: 4 requests are under way already"}
        assert refused.headers["Retry-After"] == "1"
        text = requests.get(f"{url}/metrics", timeout=9).text
    assert 'cfcam_requests_total{path="/explain",status="429"} 4.0' in text
    assert 'cfcam_requests_total{path="/explain",status="200"} 4.0' in text
    assert "cfcam_images_total 4.0" in text
    assert "cfcam_queue_length 0.0" in text
    assert 'cfcam_stage_seconds_count{stage="queue"} 4.0' in text


def test_who_has_gone_is_worked_for_no_longer(listening, caplog):
    with listening(delay=0.5) as (url, replicas, _):
        with pytest.raises(requests.Timeout):
            requests.post(f"{url}/explain", data=picture(), timeout=0.2)
        time.sleep(0.2)
        assert (replicas.asked, replicas.dropped) == (1, 1)
        assert 'path="/explain",status="499"} 1.0' in requests.get(f"{url}/metrics", timeout=9).text
    assert caplog.records == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 60_000, 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431),
        (b"GET /?" + b"a" * 60_000, 431),
        (b"no request\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
    ids=["long", "without an end", "many", "address", "nonsense", "no host"],
)
def test_headers_have_a_limit(listening, caplog, head, status):
    with listening() as (url, _, _):
        with socket.create_connection(address(url), timeout=10) as client:
            client.sendall(head)
            answer = client.recv(2000).decode()
        assert requests.get(f"{url}/live", timeout=9).status_code == 200
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "application/json" in answer
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("wait", [0, 0.2], ids=["at once", "after the answer"])
def test_a_body_that_is_none_is_nobodys_fault_but_the_clients(listening, caplog, wait):
    head = b"POST /explain HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with listening() as (url, _, _):
        with socket.create_connection(address(url), timeout=10) as client:
            client.sendall(head)
            time.sleep(wait)
            client.sendall(b"zz\r\n")
            answer = client.makefile().read()
        assert 'errors_total{kind="internal"} 0.0' in requests.get(f"{url}/metrics", timeout=9).text
    assert answer.startswith(("HTTP/1.1 400 ", "HTTP/1.1 411 "))
    assert caplog.records == []


def test_an_answer_has_its_stages(proxy, answering):
    async def explained():
        found = proxy.ProxyActor(
            Served(answering.about, LIMITS, answering.class_names), Replicas(answering), at_once=1, places=1,
            application="none", hosts=(), origins=(),
        )  # fmt: skip
        return await found.explain(Question(picture()))

    answer = asyncio.run(explained())
    assert isinstance(answer, Answer)
    assert answer.seconds["queue"] > 0
