"""Nothing that a CUDA graph captures makes the host wait, and a call waits once."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cfcam_gpu import CAM, CFCAM, Config, engines, targets
from cfcam_gpu.core.gate import gate
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.engines import execution, fused, reference
from cfcam_gpu.explain.cuda_graph import explain_within_graph
from cfcam_gpu.hooks import capture, layers
from cfcam_gpu.methods import METHODS, forwards

from .. import recorder
from ..small import CONFIGS, LAYERS, SIZES, Network, draw


class OnDevice(TorchDispatchMode):
    """Refuses a tensor on the host: with all on the meta device, which has no values, nothing is read or brought."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in recorder.tensors([args, kwargs, found]):
            assert tensor.device.type == "meta", f"{function} touches a tensor on the host"
        return found


def launches_nothing(activations, gradients, config):
    return fused.compute(activations, gradients, config, lambda *given, **macros: None)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("several", "dims"), [(None, 2), ((3,), 2), ((3, 2), 2), (None, 3), ((3, 2), 1)], ids=str)
def test_nothing_is_read_by_the_host_or_copied_from_it(config, several, dims):
    model, found = Network(dims).eval(), LAYERS[config]
    names = found if isinstance(found, list | tuple) else [found]
    known = layers.laid_out(model, draw(0, dims=dims), [layers.find(model, name) for name in names])
    model = model.to("meta")
    images = draw(0, dims=dims).to("meta")
    plan = CFCAM(model, list(known), config=CONFIGS[config])._laid_out(images, targets.Request())
    engine = SimpleNamespace(run_checked=launches_nothing)
    request = targets.Request()
    if several:
        request = targets.Request(indices=torch.zeros(several, dtype=torch.int64, device="meta"), checked=True)

    def work():
        names = targets.ClassNames(None, model)
        return explain_within_graph(model, plan, engine, images, request, names, overlay=dims > 1)

    work()  # as the warm-up does: tables that are brought once
    with OnDevice():
        found = work()
    assert found.maps.shape == (3, *(several or ())[1:], *SIZES[dims])
    assert found.finite.shape == (3,)


#: The others draw random numbers, which the meta device has none of, or must know which channels are alive.
ON_META = [name for name, method in METHODS.items() if method.from_gradients or method.curvature]


@pytest.mark.parametrize("name", ON_META)
@pytest.mark.parametrize("several", [None, (3,), (3, 2)], ids=str)
def test_no_method_is_read_by_the_host_or_copied_from_it(name, several):
    method = METHODS[name]
    model = Network().eval()
    (layer,) = layers.laid_out(model, draw(0), [layers.find(model, "late")])
    model, images = model.to("meta"), draw(0).to("meta")
    request = targets.Request(objective=method.objective)
    if several:
        indices = torch.zeros(several, dtype=torch.int64, device="meta")
        request = targets.Request(indices=indices, checked=True, objective=method.objective)
    with OnDevice():
        captured = capture.capture(model, layer, images, request, curvature=method.curvature)
        if method.from_gradients:
            found = method.from_gradients(captured.activations, captured.gradients)
        else:
            found = method.from_model(forwards.Work(model, layer, images, captured, request, 1, 0.0, 0))
        found = upsample(found, (12, 10))
    assert found.shape == (3, *((several or ())[1:] or (1,)), 12, 10)


class Reads(TorchDispatchMode):
    """Counts what the host reads: single values, and how many there are of something."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        bools = name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.count += bools or name in ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal")
        return function(*args, **(kwargs or {}))


OF_ONE_LAYER = [name for name, one in METHODS.items() if not one.cluster_filter and one.layers == "one"]


@pytest.mark.parametrize("name", OF_ONE_LAYER)
def test_the_host_reads_once_a_look_which_channels_are_alive_and_whether_copies_are_as_before(name):
    model, images = Network().eval(), draw(0)

    def reads(**options):
        explain = CAM(model, "late", method=name, **options)
        explain(images)  # the first call sees where the layer's positions are in the image
        with Reads() as found:
            explain(images)
        return found.count

    more = {"scorecam": 1, "ablationcam": 3, "reciprocam": 1}.get(name, 0)
    assert reads() == 1 + more
    assert reads(memory=1) == 1 + more, "with a chunk for each channel as with one"
    assert reads(augment="flip") == 2 * (1 + more)
    # The image itself is looked at, too: what its class is.
    assert reads(smooth=3) == 3 * (1 + more) + 1


@pytest.mark.parametrize(
    "reads", [lambda x: bool(x.any()), lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x + torch.ones(())]
)
def test_the_guard_above_sees_what_it_is_for(reads):
    with OnDevice(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        reads(torch.empty(3, device="meta"))


class Launches(TorchDispatchMode):
    """Counts what a GPU would be sent: all operators but views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("targets", [1, 3])
def test_a_small_batch_does_not_wait_for_many_launches(targets):
    fine, coarse = torch.rand(2, targets, 6, 5), (torch.randn(2, 8, 3, 3), torch.randn(2, targets, 8, 3, 3))
    with Launches() as maps:
        upsample(fine, (12, 10))
    with Launches() as gated:
        gate(fine, *coarse, Config(gate=0.1))
    assert maps.count <= 6
    assert gated.count <= 13 + 2 * targets


@pytest.mark.parametrize("late", [False, True])
def test_an_engine_that_is_only_launched_is_checked_behind_the_launch(monkeypatch, late):
    """So that the host waits while the device works; and once, whatever the number of tensors."""
    done = []

    def run(activations, gradients, config):
        done.append("run")
        return reference.run(activations.nan_to_num(), gradients.nan_to_num(), config)

    def run_checked(activations, gradients, config):
        flags = [execution.are_finite(tensor) for tensor in (activations, gradients)]
        return run(activations, gradients, config), torch.stack(flags, dim=1)

    engine = SimpleNamespace(run=run, **({"run_checked": run_checked} if late else {}))
    monkeypatch.setattr(engines, "choose", lambda *given, **work: engine)
    activations, gradients = torch.ones(2, 4, 3, 3), torch.ones(2, 1, 4, 3, 3)
    gradients[1, 0, 2, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="gradients: expected finite numbers within float32; image 1 has NaN"):
        execution.compute(activations, gradients, Config(), "auto")
    assert done == ["run"] * late


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_finite_by_image(dtype, bad):
    tensor = torch.randn(4, 3, 5, 7).to(dtype).contiguous(memory_format=torch.channels_last)
    tensor[0, 0, 0, 0], tensor[2, 1, 4, 6] = torch.inf, torch.nan
    assert execution.are_finite(tensor).tolist() == [False, True, False, True]
    tensor[3, 2, 0, 1] = bad
    assert execution.are_finite(tensor[:, None]).tolist() == [False, True, False, False]


def test_finite_means_in_float32():
    assert execution.are_finite(torch.tensor([[1e300], [3e38]], dtype=torch.float64)).tolist() == [False, True]
