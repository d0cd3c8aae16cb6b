"""``cfcam-gpu serve`` as a process of its own on a real Ray cluster."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import requests

from cfcam_gpu.photographs.options import Settings

from ..services import SMALL, backend, expected, picture, values

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
#: Requests that may wait for a replica: more than the clients of a test.
QUEUE = 40


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def started(port, *args, cluster):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster}
    command = [sys.executable, "-m", "cfcam_gpu", "serve", "--port", port, "--model", SMALL.model, *args]
    return subprocess.Popen(
        list(map(str, command)), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def service(cluster):
    """The URL of two replicas that take batches of four, and wait long for them."""
    port = free_port()
    options = ("--replicas", 2, "--batch-size", 4, "--batch-wait", 50, "--max-pixels", 1, "--queue", QUEUE)
    with started(port, *options, cluster=cluster) as process:
        said = process.stdout.readline()
        assert said == f"look at http://127.0.0.1:{port}/\n", process.stderr.read()
        yield said.split()[-1].rstrip("/")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


def test_many_clients_get_the_librarys_maps(service):
    answering = backend()
    images = [picture(seed) for seed in range(6)]
    targets = [None, 0, 1, 2, 3, 4]
    wanted = {(i, t): expected(answering, images[i], t)[0] for i in range(6) for t in targets}
    jobs = list(wanted) * 3

    def ask(job):
        i, target = job
        query = {} if target is None else {"target": target}
        answer = requests.post(f"{service}/explain", data=images[i], params=query, timeout=60)
        return answer.status_code, answer.json()["explanations"][0]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, jobs))
    for job, (status, found) in zip(jobs, answers):
        assert status == 200
        assert found["target"] == wanted[job].target.item()
        assert (values(found["map"]).float() - wanted[job].maps[0]).abs().max() < 1e-3


def test_bad_input_is_refused_through_the_proxy_too(service):
    for data, query, status, reason in (
        (b"hello", "", 422, "not an image"),
        (picture(), "?target=9", 422, "class 9 is out of range"),
        (picture(size=(1001, 1000)), "", 413, "more than the limit of 1,000,000 pixels"),
        (bytes(33 * 2**20), "", 413, "more than the limit of 33,554,432 bytes"),
    ):
        answer = requests.post(f"{service}/explain{query}", data=data, timeout=60)
        assert answer.status_code == status
        assert reason in answer.json()["error"]


def test_a_full_queue_is_said_and_answers_again_when_it_is_not(service):
    host, port = service.removeprefix("http://").split(":")
    head = b"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with ExitStack() as stack:
        # Bodies that do not come keep their replica's places, and the queue's. A few at a time: of a burst, the proxy
        # refuses what it has not passed on yet.
        refused = _asked_until(
            service,
            429,
            lambda: [
                stack.enter_context(socket.create_connection((host, int(port)))).sendall(head)
                for _ in range(QUEUE // 2)
            ],
        )
        assert refused.headers["Retry-After"] == "1"
    answer = _asked_until(service, 200)
    assert answer.json()["explanations"][0]["target"] == 2


def _asked_until(service, status, before=lambda: None):
    """The first answer of that status; the proxy sees what has come and gone in its own time."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        before()
        with suppress(requests.Timeout):
            answer = requests.post(f"{service}/explain?target=2&map=none", data=picture(), timeout=2)
            if answer.status_code == status:
                return answer
        time.sleep(0.1)
    raise AssertionError(f"no answer of status {status}")


def test_another_name_of_this_machine_is_refused(service):
    answer = requests.get(f"{service}/health", headers={"Host": "evil.example"}, timeout=60)
    assert answer.status_code == 403
    assert "got 'evil.example'" in answer.json()["error"]


def test_only_loopback_is_listened_on(service):
    listening = {}
    for process in psutil.process_iter(["cmdline"]):
        # Ray's own processes, and its workers, which call themselves ray::...
        if "ray" in " ".join(process.info["cmdline"] or ()):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    listening[connection.laddr.port] = connection.laddr.ip
    assert int(service.rpartition(":")[2]) in listening
    assert {port: ip for port, ip in listening.items() if ip.removeprefix("::ffff:") != "127.0.0.1"} == {}


@pytest.fixture
def deployment(cluster):
    from cfcam_gpu.service import deployment

    return deployment


# Ray's own settings, when ray.serve is imported.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_what_cant_be_meant_is_found_by_a_worker_before_anything_is_served(deployment):
    settings = Settings(model=SMALL.model, layers=("9",))
    with pytest.raises(ValueError, match="target_layer: "):
        deployment._check(deployment.Options(settings=settings), {"num_cpus": 1})
    many = deployment.Options(settings=SMALL, replicas=9)
    assert deployment._resources(many) == {"num_cpus": 4 / 9}


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_on_loopback_it_goes_by_the_names_of_loopback(deployment):
    loopback = {"localhost", "127.0.0.1", "[::1]"}
    assert (
        deployment.names_of("127.0.0.1") == deployment.names_of("localhost") == deployment.names_of("::1") == loopback
    )
    assert deployment.names_of("127.0.0.2") == loopback | {"127.0.0.2"}
    assert deployment.names_of("0.0.0.0") is deployment.names_of("::") is deployment.names_of("a.example") is None


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_a_port_that_is_taken_is_refused_before_anything_starts(deployment):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        refused = deployment.running(deployment.Options(), port=port)
        with pytest.raises(OSError, match=f"port: 127.0.0.1:{port} can't be bound: Address already in use"):
            refused.__enter__()
