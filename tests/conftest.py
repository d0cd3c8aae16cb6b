"""What a machine may lack: a GPU, and the libraries that ours is checked against.

A test that needs one is skipped without it, or failed where CFCAM_REQUIRE_GPU=1 or CFCAM_REQUIRE_PEERS=1 says that it
is there. RAPIDS is required with the GPU, unless CFCAM_REQUIRE_RAPIDS=0.
"""

import gc
import importlib
import importlib.util
import os
import signal
import warnings
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
import torch

from bench.torchvision_shim import import_torchvision

from .needs import lacking

# torchmetrics imports it where it is installed, with or without its compiled part.
with suppress(ImportError):
    import_torchvision()

# A shell's background jobs ignore Ctrl-C, and so does all that they start; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The GPU check may have no Hypothesis.
with suppress(ImportError):
    from hypothesis import HealthCheck, settings

    # Other examples in each run; of one that fails, the blob and the seed are printed. A busy machine is no failure.
    settings.register_profile(
        "cfcam",
        settings.get_profile("default"),
        derandomize=False,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("cfcam")

GPU_TESTS = Path(__file__).parent / "gpu"


@cache
def why_no_gpu():
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    return None


def unavailable(reason, what="GPU"):
    """End a test that can't run here: skipped, or failed where a GPU, or RAPIDS on it, is required."""
    lacking(reason, what, default=os.environ.get("CFCAM_REQUIRE_GPU"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    # Files with slow tests begin first: at the end one process would else work alone.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        # A file's tests share fixtures: one process runs them all, with those of other files that share a cluster.
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
        if item.get_closest_marker("gpu") and GPU_TESTS not in item.path.parents:
            # The GPU check runs that folder alone.
            raise pytest.UsageError(f"{item.nodeid}: tests marked gpu live in tests/gpu")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and why_no_gpu():
        unavailable(why_no_gpu())


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    # What is imported stays, and is much: no collection need go through it while it grows.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish():
    # Nor later, in the rounds of a timing among others.
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _freeze_before_timings(request):
    if request.path.parent.name in ("bench", "latency"):
        gc.collect()
        gc.freeze()


@pytest.fixture
def peer():
    """Imports a module of a library that ours is checked against."""

    def load(name):
        try:
            # Most of them import torchvision, which wants its compiled part.
            import_torchvision()
            return importlib.import_module(name)
        except ImportError as error:
            lacking(str(error), "PEERS")

    return load


@contextmanager
def _running_cluster():
    from cfcam_gpu.pipelines import ray_session

    with pytest.MonkeyPatch.context() as patch:
        # Workers import the tests' networks.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        with ray_session.connected(cpus=4):
            import ray

            yield ray.get_runtime_context().gcs_address
    # It leaves its processes to be waited for, and files open.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Cluster:
    """The one that runs, while the next test is of the group that needs it."""

    running, address, needed = ExitStack(), None, False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem):
    group = nextitem and nextitem.get_closest_marker("xdist_group")
    Cluster.needed = group is not None and group.args == ("ray",)


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster on this machine, of four CPUs, which processes reach at the address that this is.

    Ray takes seconds to start: all tests that need it are in one group, and so in one process of pytest-xdist, one
    after another. It ends with the last of them: an idle cluster is busy, too.
    """
    if Cluster.address is None:
        Cluster.address = Cluster.running.enter_context(_running_cluster())
    yield Cluster.address
    if not Cluster.needed:
        Cluster.address = None
        Cluster.running.close()
