"""``cfcam-gpu serve`` as a process of its own on a real Ray cluster."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

import psutil
import pytest
import requests
from PIL import Image

from cfcam_gpu import CAM
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.service.backend import Served

from ..services import LIMITS, SMALL, address, backend, encoded, expected, picture, values

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
#: A white image brings its replica's device out of order.
MODEL = "tests.services:dying"
#: Requests that may wait for a replica: more than the clients of a test.
QUEUE = 40
#: The command, whose replicas are asked more often whether their device is in order: thrice, until one is replaced.
COMMAND = """
from cfcam_gpu import cli
from cfcam_gpu.pipelines import ray_session
ray_session.prepare()
from cfcam_gpu.service import deployment
deployment.HEALTH = 0.3
cli.main()
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def started(port, *args, cluster, said):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster}
    command = [sys.executable, "-c", COMMAND, "serve", "--port", port, "--model", MODEL, *args]
    return subprocess.Popen(list(map(str, command)), env=environment, text=True, stdout=subprocess.PIPE, stderr=said)


@pytest.fixture(scope="module")
def running(cluster, tmp_path_factory):
    """The URL, the process and the log of two replicas that take batches of four, and wait long for them."""
    port, log = free_port(), tmp_path_factory.mktemp("service") / "log"
    options = ("--replicas", 2, "--batch-size", 4, "--batch-wait", 50, "--max-pixels", 1, "--queue", QUEUE)
    options += ("--engine", "reference")  # of which each of five processes has nothing to load
    with log.open("w") as file, started(port, *options, cluster=cluster, said=file) as process:
        said = process.stdout.readline()
        assert said == f"look at http://127.0.0.1:{port}/\n", log.read_text()
        assert f"{MODEL} doesn't say mean and std of its images" in log.read_text()
        yield said.split()[-1].rstrip("/"), process, log
        before = log.read_text()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # one signal more changes nothing
        assert process.wait(timeout=60) == 0
    assert log.read_text() == before  # there is nothing to say about an end
    assert "\x1b" not in before


@pytest.fixture(scope="module")
def service(running):
    """Its URL."""
    return running[0]


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


def test_what_comes_together_is_explained_by_the_method_of_each(service):
    data, answering = picture(1), backend()
    pixels = answering.model.preparation.normalize(answering.decode(data)[None])
    methods = ["cfcam", "gradcam", "layercam"]
    wanted = {method: CAM(answering.model.module, method=method)(pixels, 2).maps[0] for method in methods}

    def ask(method):
        answer = requests.post(f"{service}/explain", data=data, params={"method": method, "target": 2}, timeout=60)
        return answer.json()["explanations"][0]

    with ThreadPoolExecutor(12) as pool:
        for method, found in zip(methods * 4, pool.map(ask, methods * 4)):
            assert found["method"] == method
            assert (values(found["map"]).float() - wanted[method]).abs().max() < 1e-3


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
    head = b"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with ExitStack() as stack:
        # Bodies that do not come keep their replica's places, and the queue's. A few at a time: of a burst, the proxy
        # refuses what it has not passed on yet.
        refused = _asked_until(
            service,
            429,
            lambda: [
                stack.enter_context(socket.create_connection(address(service))).sendall(head) for _ in range(QUEUE // 2)
            ],
        )
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["error"].startswith("busy: ")
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


@pytest.mark.long
def test_replicas_are_replaced_under_load_without_loss(running):
    """Those of a new start, one after another, and one that is killed."""
    service, process, _ = running
    before, seen, stop = replicas(), Counter(), Event()

    def client():
        while not stop.is_set():
            try:
                answer = requests.post(f"{service}/explain?map=none", data=picture(), timeout=60)
                seen[answer.status_code] += 1
            except requests.RequestException as error:
                seen[str(error)] += 1

    counted = explained(service)
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client) for _ in range(4)]
        try:
            process.send_signal(signal.SIGUSR2)
            assert process.stdout.readline() == "restarted\n"
            wait_for(lambda: len(replicas()) == 2 and not replicas() & before)
            psutil.Process(min(replicas())).kill()
            time.sleep(2)
        finally:
            stop.set()
        for one in clients:
            one.result()
    assert set(seen) == {200}
    assert explained(service) - counted == seen[200] > 8  # of all replicas that there were


def test_a_replica_whose_device_is_dead_is_replaced(running, service):
    white, before = encoded(Image.new("RGB", (40, 40), "white")), replicas()

    def status(data):
        return requests.post(f"{service}/explain?map=none", data=data, timeout=60).status_code

    assert status(white) == 503
    assert {status(picture()) for _ in range(12)} <= {200, 503}
    wait_for(lambda: len(replicas()) == 2 and len(replicas() & before) == 1)
    wait_for(lambda: {status(picture()) for _ in range(12)} == {200})
    assert "CUDA error" in running[2].read_text()


def replicas():
    """The processes of all replicas."""
    found = psutil.process_iter(["cmdline"])
    return {one.pid for one in found if "ray::ServeReplica" in " ".join(one.info["cmdline"] or ())}


def explained(service):
    """How many images were, as Prometheus is told."""
    lines = requests.get(f"{service}/metrics", timeout=60).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("cfcam_images_total"))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def deployment(cluster):
    from cfcam_gpu.service import deployment

    return deployment


# Ray's own settings, when ray.serve is imported.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_what_cant_be_meant_is_found_by_a_worker_before_anything_is_served(deployment):
    settings = Settings(model=SMALL.model, layers=("9",))
    with pytest.raises(ValueError, match="target_layer: "):
        deployment._load(deployment.Options(settings=settings), {"num_cpus": 1})
    many = deployment.Options(settings=SMALL, replicas=9)
    assert deployment._resources(many) == {"num_cpus": 4 / 9}


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_a_port_that_is_taken_is_refused_before_anything_starts(deployment):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        refused = deployment.running(deployment.Options(), port=port)
        with pytest.raises(OSError, match=f"port: 127.0.0.1:{port} can't be bound: Address already in use"):
            refused.__enter__()


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
@pytest.mark.parametrize("why", ["gone", "other classes", "ending"])
def test_what_cant_be_restarted_is_left_as_it_is(deployment, monkeypatch, why):
    served = Served({}, LIMITS, ["cat", "dog"])

    def load(*_):
        if why == "gone":
            raise FileNotFoundError("weights")
        return served._replace(class_names=["cat"]) if why == "other classes" else served

    service = deployment.Service.__new__(deployment.Service)
    service._options, service._resources, service._served = deployment.Options(), {"num_cpus": 1}, served
    service.ending = why == "ending"
    monkeypatch.setattr(deployment, "_load", load)
    monkeypatch.setattr(deployment.serve, "run_many", lambda *_, **__: pytest.fail("replicas are replaced"))
    if why == "ending":
        service.restart()
        return
    with pytest.raises((FileNotFoundError, ValueError), match=r"weights|expected the 2 classes that it had; got 1"):
        service.restart()
