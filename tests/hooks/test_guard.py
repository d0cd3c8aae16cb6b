"""The guard: models in any mode and wrapping are explained, or refused by name, and come out as they went in."""

import copy
import warnings

import pytest
import torch
from torch import nn

import cfcam_gpu
from cfcam_gpu import metrics
from cfcam_gpu.hooks import guard

from ..small import CONFIGS, LAYERS, Network, draw


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


# Results that are not the image's alone


class Functional(nn.Module):
    """Drops by the function."""

    def __init__(self, dropout):
        super().__init__()
        self.attention_dropout = dropout


RANDOM = {
    "dropout": lambda p: nn.Dropout(p),
    "dropout of channels": lambda p: nn.Dropout2d(p),
    "alpha dropout": lambda p: nn.AlphaDropout(p),
    "a slope": lambda p: nn.RReLU(0.1, 0.1 + p),
    "attention": lambda p: nn.MultiheadAttention(4, 2, dropout=p),
    "layers of an LSTM": lambda p: nn.LSTM(4, 4, num_layers=2, dropout=p),
    "by the function": Functional,
}
OF_LIBRARIES = {
    "DropPath": lambda peer, p: peer("timm").layers.DropPath(p),
    "DropBlock2d": lambda peer, p: peer("timm").layers.DropBlock2d(p),
    "PatchDropout": lambda peer, p: peer("timm").layers.PatchDropout(p),
    "StochasticDepth": lambda peer, p: peer("torchvision").ops.StochasticDepth(p, "row"),
    "torchvision's DropBlock": lambda peer, p: peer("torchvision").ops.DropBlock2d(p, 3),
    "transformers' attention": lambda peer, p: vit(peer("transformers"), p),
}


def vit(transformers, p):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=p, **sizes
    )
    return next(module for module in transformers.ViTModel(config).modules() if "Attention" in type(module).__name__)


@pytest.mark.parametrize("kind", [*RANDOM, *OF_LIBRARIES])
def test_what_drops_at_random_is_warned_about(peer, kind):
    def model(p):
        module = RANDOM[kind](p) if kind in RANDOM else OF_LIBRARIES[kind](peer, p)
        return nn.Sequential(nn.Conv2d(3, 4, 3), module)

    with pytest.warns(UserWarning, match=r"model: 1 modules in training mode drop at random .*; call model.eval\(\)"):
        guard.warn_of_training(model(0.25).train())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.warn_of_training(model(0.0).train())
        guard.warn_of_training(model(0.25).eval())


def test_both_causes_are_told_in_one_warning_where_the_user_called(images):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Dropout(0.0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *head).train()
    with pytest.warns(UserWarning, match=r"1 normalisation layers .*; 1 modules .*Dropout.*; call model.eval") as told:
        cfcam_gpu.CFCAM(model, "1")(images)
    assert [warning.filename for warning in told] == [__file__]


# What a call asks of the modules


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
    assert guard.survey_of(model).training == guard.survey_of(model).writable == [norm]
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


def stance():
    return torch._dynamo.eval_frame._stance.stance


@pytest.fixture(params=["default", "eager_on_recompile"])
def users(request):
    """The stance that the user has set."""
    torch.compiler.set_stance(request.param)
    yield request.param
    torch.compiler.set_stance("default")


@pytest.mark.parametrize("last", [0, 1])
def test_calls_that_overlap_leave_the_compilers_stance_as_it_was(users, last):
    calls = [guard._eager(), guard._eager()]
    for call in calls:
        call.__enter__()
    calls[1 - last].__exit__(None, None, None)
    assert stance() == "force_eager"
    calls[last].__exit__(None, None, None)
    assert stance() == users


def test_a_stance_that_the_user_sets_during_a_call_stays(users):
    with guard._eager():
        torch.compiler.set_stance("fail_on_recompile")
    assert stance() == "fail_on_recompile"


@pytest.mark.parametrize("ends", ["in the call", "after it", "after another call"])
@pytest.mark.parametrize("begins", ["before the call", "in it"])
def test_a_block_of_the_users_in_another_thread_leaves_what_it_found(users, begins, ends):
    call = guard._eager()
    if begins == "in it":
        call.__enter__()
    block = torch.compiler.set_stance("fail_on_recompile")
    block.__enter__()
    if begins == "before the call":
        call.__enter__()
    if ends == "in the call":
        block.__exit__(None, None, None)
        call.__exit__(None, None, None)
    else:
        call.__exit__(None, None, None)
        assert stance() == "fail_on_recompile"
        if ends == "after another call":
            with guard._eager():
                assert stance() == "force_eager"
            assert stance() == "fail_on_recompile"
        block.__exit__(None, None, None)
    assert stance() == users


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
    try:
        model(images)
    except AttributeError as error:
        pytest.skip(f"this torch can't run what it shards on a CPU: {error}")
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
