"""The guard: models in any mode and wrapping are explained, or refused by name, and come out as they went in."""

import copy
import threading
import warnings

import pytest
import torch
from torch import nn

import cfcam_gpu
from cfcam_gpu import metrics
from cfcam_gpu.hooks import guard

from ..small import CONFIGS, LAYERS, Network, draw
from ..threads import in_threads


@pytest.fixture
def images():
    return draw(0)


@pytest.fixture
def model():
    return Network().eval()


def test_wrapped_models_run_whole_on_their_own_device(model, images):
    for wrapped in (nn.DataParallel(model), nn.DataParallel(nn.DataParallel(model))):
        explain = cfcam_gpu.CFCAM(wrapped, "late")
        assert explain.model is model
        assert len(explain(images)) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_model_runs_as_the_module_inside(model, images):
    explain = cfcam_gpu.CFCAM(torch.compile(model), "late")
    assert explain.model is model


def test_training_mode_is_warned_about_and_running_statistics_stay(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    model(images)
    before = copy.deepcopy(model.state_dict())
    for explain in (cfcam_gpu.CFCAM(model, "1"), cfcam_gpu.CFCAM(model), cfcam_gpu.CAM(model, "1", method="scorecam")):
        with pytest.warns(UserWarning, match=r"1 normalisation layers are in training mode.*model.eval\(\)") as told:
            result = explain(images)
        assert [warning.filename for warning in told] == [__file__]  # once, and where the user called
    with pytest.warns(UserWarning, match="training mode") as told:
        metrics.insertion(model, images, result.maps, step=100)
    assert [warning.filename for warning in told] == [__file__]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cfcam_gpu.CFCAM(model.eval(), "1")(images)


def test_calls_that_overlap_leave_running_statistics_as_they_were(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = copy.deepcopy(model.state_dict())
    step = threading.Barrier(2)

    def call(second):
        if second:
            step.wait()  # for the other's forward
        with guard.guarded(model):
            model(images)
            step.wait()
            step.wait()  # the second one's forward is done, or the first one's call
        if not second:
            step.wait()

    in_threads(call, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not guard._statistics._held
    assert not guard._statistics._users


class Counted(nn.Identity):
    """Counts how often somebody asks what is inside of it."""

    asked = 0

    @property
    def _modules(self):
        self.asked += 1
        return {}

    @_modules.setter
    def _modules(self, parts):
        pass


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("target", [None, [[0, 1], [2, 3], [4, 0]]], ids=str)
def test_a_call_walks_over_the_model_once(model, images, config, target):
    """On a GPU, a small batch waits for the host to do it."""
    model.last = Counted()
    explain = cfcam_gpu.CFCAM(model, LAYERS[config], config=CONFIGS[config])
    explain(images)  # which has to find the layouts, too
    before = model.last.asked
    explain(images, target)
    assert model.last.asked == before + 1


@pytest.mark.parametrize("method", ["gradcam", "cfcam"])
def test_a_call_of_any_method_walks_over_the_model_once(model, images, method):
    model.last = Counted()
    explain = cfcam_gpu.CAM(model, "late", method=method)
    explain(images)
    before = model.last.asked
    explain(images)
    assert model.last.asked == before + 1


def test_a_walk_meets_every_module_once(model):
    model.again, model.lacking = model.early, None
    found = guard.survey_of(model)
    assert found.modules == set(model.modules())
    assert (found.training, found.compiled, found.watched()) == ([], False, False)
    norm = model.early[1].train()
    assert guard.survey_of(model).training == [norm]
    norm.track_running_stats = False
    assert guard.survey_of(model).training == []
    for register in (model.head.register_full_backward_hook, model.head.register_full_backward_pre_hook):
        handle = register(lambda *given: None)
        assert guard.survey_of(model).watched()
        handle.remove()


def test_parameters_made_in_inference_mode_are_refused_by_name():
    with torch.inference_mode():
        model = Network()
    with pytest.raises(ValueError, match=r"model: parameter early\.0\.weight was made under torch\.inference_mode"):
        cfcam_gpu.CFCAM(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("compiled", ["whole, in place", "a part", "a part, in place"])
def test_compiled_parts_of_a_model(model, images, compiled):
    expected = cfcam_gpu.CFCAM(copy.deepcopy(model), "late")(images)
    if compiled == "whole, in place":
        model.compile(backend="eager")
    elif compiled == "a part":
        model.late = torch.compile(model.late, backend="eager")
    else:
        model.late.compile(backend="eager")
    model(images)
    assert torch.equal(cfcam_gpu.CFCAM(model, "late")(images).maps, expected.maps)
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_calls_that_overlap_leave_the_compilers_stance_as_it_was():
    one, other = guard._eager(), guard._eager()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    other.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:::torch")
def test_a_sharded_model(model, images, one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    expected = cfcam_gpu.CFCAM(copy.deepcopy(model), "late")(images)
    mesh = init_device_mesh("cpu", (1,))
    for module in (model.early, model.late, model):
        fully_shard(module, mesh=mesh)
    assert isinstance(model, FSDPModule)
    for _ in range(2):
        assert torch.equal(cfcam_gpu.CFCAM(model, "late")(images).maps, expected.maps)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_without_values_are_refused_by_name(model, images):
    model.head.to("meta")
    with pytest.raises(ValueError, match=r"model: 2 of its parameters are on the meta device, head\.weight the first"):
        cfcam_gpu.CFCAM(model)
    explain = cfcam_gpu.CFCAM(model.to("meta"))
    with pytest.raises(ValueError, match="model: its parameters are on the meta device"):
        explain(images)


@pytest.mark.parametrize("layer", ["late", None])
def test_an_error_in_the_forward_tells_what_went_in(model, images, layer):
    with pytest.raises(RuntimeError) as told:
        cfcam_gpu.CFCAM(model, layer)(images.double())
    shape = tuple(images.shape)
    expected = f"images: {shape}, torch.float64 on 'cpu'; the model's first parameter is torch.float32 on 'cpu'"
    assert told.value.__notes__ == [expected]
