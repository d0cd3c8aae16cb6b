"""What Ray is started with, without starting it."""

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from cfcam_gpu import cli
from cfcam_gpu.pipelines import ray_session


@pytest.mark.parametrize(
    "args", [["serve"], ["run", ".", "--out", "nowhere", "--model", "tests.albums:small", "--ray"]], ids=lambda a: a[0]
)
def test_a_missing_extra_is_named(monkeypatch, args):
    absent = ("ray", "python_multipart")
    monkeypatch.setattr(ray_session, "find_spec", lambda name: None if name in absent else find_spec(name))
    result = CliRunner().invoke(cli.app, args)
    assert result.exit_code == 2
    assert result.stderr == "error: ray, python-multipart not installed; pip install 'cfcam-gpu[ray]'\n"


@pytest.mark.parametrize("address", ["", "192.0.2.1:6379"])
def test_only_a_cluster_of_our_own_is_set_to_loopback(address):
    code = (
        "import os; from cfcam_gpu.pipelines import ray_session; ray_session.prepare(); "
        "print(os.environ.get('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'), os.environ.get('RAY_USAGE_STATS_ENABLED'))"
    )
    names = ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_USAGE_STATS_ENABLED")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if address:
        environment["RAY_ADDRESS"] = address
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == (["None", "None"] if address else ["0", "0"])


@pytest.mark.parametrize(("given", "wanted"), [({}, "0"), ({"RAY_COLOR_PREFIX": "1"}, "1")])
def test_what_workers_say_has_no_colours_in_a_file(given, wanted):
    code = (
        "import os; from cfcam_gpu.pipelines import ray_session; ray_session.prepare(); "
        "print(os.environ.get('RAY_COLOR_PREFIX'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_COLOR_PREFIX"} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [wanted]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch, scheme):
    monkeypatch.setattr(ray_session, "prepare", lambda address: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
    with (
        pytest.raises(ConnectionError, match=f"ray_address: expected .* nobody listens at {address}"),
        ray_session.connected(address),
    ):
        pass


@pytest.mark.parametrize("before", [signal.SIG_DFL, print], ids=["default", "own"])
def test_sigterm_is_handled_as_before_when_ray_has_ended(monkeypatch, before):
    """Ray sets a handler of its own, and leaves it there."""
    ray_session.prepare()
    import ray

    during = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_session, "loopback", lambda: True)
    monkeypatch.setattr(ray, "init", lambda **options: signal.signal(signal.SIGTERM, repr))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    was = signal.signal(signal.SIGTERM, before)
    try:
        with ray_session.connected():
            during.append(signal.getsignal(signal.SIGTERM))
        after = signal.getsignal(signal.SIGTERM)
        with ray_session.connected():
            signal.signal(signal.SIGTERM, ascii)
        assert signal.getsignal(signal.SIGTERM) is ascii, "set within, it is somebody's own"
    finally:
        signal.signal(signal.SIGTERM, was)
    assert (*during, after) == (repr if before is signal.SIG_DFL else before, before)
