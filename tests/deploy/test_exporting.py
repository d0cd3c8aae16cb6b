"""Files of small networks beside the library: every way in which one can be asked for, and all that one holds."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import cfcam_gpu
from cfcam_gpu import CAM, CFCAM, Config, deploy
from cfcam_gpu.deploy import checking, onnx_file, plan, refusals
from cfcam_gpu.deploy.exporting import weights_sha256

from .exports import SIZE, images, network

# As test_runtime.py in method_graph/.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("export")]

BAR = 1e-5


def off(found, expected):
    return float(checking.difference(found.maps, expected.maps, len(expected.size)).max())


@pytest.fixture(scope="module")
def model():
    return network()


def state(model):
    """All that an export could change of a model and of the process: weights, and the rest."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, {
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        "asks": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "enabled": torch.is_grad_enabled(),
        "fast": torch.backends.mha.get_fastpath_enabled(),
    }


@pytest.fixture(scope="module")
def any_batch(model, tmp_path_factory):
    """A file, what it says of itself, and the states before and after."""
    path, before = tmp_path_factory.mktemp("any") / "model.onnx", state(model)
    said = deploy.export(CFCAM(model, class_names=[f"c{i}" for i in range(6)]), path, images(4), name="small")
    return path, said, before, state(model)


@pytest.mark.parametrize("count", [1, 2, 8, 13])
def test_any_batch_is_explained_as_by_the_library(model, any_batch, count):
    given = images(count, seed=count)
    found, expected = deploy.load(any_batch[0])(given), CFCAM(model)(given)
    assert off(found, expected) < BAR
    torch.testing.assert_close(found.raw_maps, expected.raw_maps, rtol=1e-4, atol=1e-6 * float(expected.raw_maps.max()))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.target, expected.target)
    assert torch.equal(found.empty, expected.empty)


def named_or_predicted(model, given):
    """Classes (B, 3), of which some are the predicted one, and what the library says where that is named."""
    predicted = CFCAM(model)(given).target
    classes = torch.stack([torch.full_like(predicted, -1), (predicted + 1) % 6, torch.arange(len(given))], dim=1)
    return classes, CFCAM(model)(given, torch.where(classes < 0, predicted[:, None], classes))


def test_the_graph_of_classes_that_are_named_or_predicted(model):
    classes, expected = named_or_predicted(model, images(2, seed=3))
    graph = plan.Plan.of(CFCAM(model), images(4), 2, "input", 3, "onnxruntime").graph()
    maps, _, _, explained, *_ = graph(images(2, seed=3), classes)
    assert maps.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(explained, expected.target)
    assert float(checking.difference(maps, expected.maps, 2).max()) < 1e-6


@pytest.mark.long
def test_classes_are_named_or_predicted(model, tmp_path):
    path = tmp_path / "model.onnx"
    deploy.export(model, path, images(4), target="input", classes=3, batch=2)
    given = images(5, seed=3)
    classes, expected = named_or_predicted(model, given)
    found = deploy.load(path)(given, expected.target)
    assert found.maps.shape == (5, 3, SIZE, SIZE)
    assert off(found, expected) < BAR
    inputs = {"images": given[:2].numpy(), "target": classes[:2].numpy()}
    maps, _, _, explained, *_ = onnxruntime.InferenceSession(path).run(None, inputs)
    assert explained.tolist() == expected.target[:2].tolist()
    assert float((torch.from_numpy(maps) - expected.maps[:2]).abs().max()) < BAR


def test_a_file_tells_what_it_is(model, any_batch):
    path, said, *_ = any_batch
    read = deploy.describe(path)
    assert read == said
    assert (said.images, said.size, said.batch, said.opset) == ((3, SIZE, SIZE), (SIZE, SIZE), None, onnx_file.OPSET)
    assert [layer.shape for layer in said.layers] == [(24, 12, 12), (40, 6, 6)]
    assert [layer.name for layer in said.layers] == [layer.name for layer in CFCAM(model)(images(1)).layers]
    assert said.config == Config.two_level()
    assert said.class_names == tuple(f"c{i}" for i in range(6))
    assert said.weights_sha256 == weights_sha256(model)
    assert said.check.checked
    assert said.check.images == 4
    assert said.check.worst < BAR
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    assert said.graph_sha256 == onnx_file.graph_sha256(loaded)
    names = [value.name for value in loaded.graph.output]
    assert names == ["maps", "raw_maps", "logits", "target", "empty", "converged"]
    assert [node.op_type for node in loaded.graph.node].count("Loop") == 1
    # The notes of torch's exporter have the paths of the files of this machine.
    assert b"site-packages" not in path.read_bytes()


def test_weights_are_told_apart():
    one, other = network(), network()
    assert weights_sha256(one) == weights_sha256(other)
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1e-3
    assert weights_sha256(one) != weights_sha256(other)


CONFIGS = {
    "paper": Config.paper(),
    "one level": Config(),
    "elementwise": Config(combine="elementwise", boundary="zero", sigma=0.7, contrast=0.5),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_the_graph_of_each_configuration(model, config):
    explain = CFCAM(model, config=config)
    graph = plan.Plan.of(explain, images(4), 4, "predicted", None, "onnxruntime").graph()
    found, expected = graph(images(4, seed=5))[0], explain(images(4, seed=5))
    assert float(checking.difference(found, expected.maps, 2).max()) < 1e-6


@pytest.mark.long
@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_configurations(model, tmp_path, config):
    path = tmp_path / "model.onnx"
    deploy.export(model, path, images(4), config=config, batch=4)
    assert off(deploy.load(path)(images(4, seed=5)), CFCAM(model, config=config)(images(4, seed=5))) < BAR


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensorrt_gets_operators_that_it_has(tmp_path, dtype):
    model, path = network().to(dtype), tmp_path / "model.onnx"
    deploy.export(model, path, images(4).to(dtype), batch=4, runtime="tensorrt")
    graph = onnx.load(path).graph
    assert not {node.op_type for node in graph.node} & {"Loop", "NonZero", "Unique", "If", "Scan"}
    assert onnx.TensorProto.DOUBLE not in {value.data_type for value in graph.initializer}
    # In float16 is what the model computes, and nothing of CF-CAM: its images and maps are float32.
    types = {value.name: value.data_type for value in graph.initializer}
    weights = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    kinds = {types[name] for name in weights if name in types}
    assert kinds == {onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.FLOAT}
    floating = {value.type.tensor_type.elem_type for value in [*graph.input, *graph.output][:4]}
    assert floating == {onnx.TensorProto.FLOAT}
    expected = CFCAM(model)(images(4, seed=5).to(dtype))
    assert off(deploy.load(path)(images(4, seed=5)), expected) < (BAR if dtype == torch.float32 else 2e-2)


def test_nothing_of_the_users_changes(any_batch):
    *_, (weights, others), (weights_after, others_after) = any_batch
    assert weights_after.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_after.items())
    assert others_after == others
    assert others_after["gradients"] == [None] * len(others["asks"])
    assert others_after["enabled"]


def test_an_image_that_is_not_finite_spoils_its_own_map_alone(model, any_batch):
    given = images(3)
    expected = CFCAM(model)(given)
    spoilt = given.clone()
    spoilt[1, 0, 5, 5] = torch.nan
    maps = torch.from_numpy(onnxruntime.InferenceSession(any_batch[0]).run(None, {"images": spoilt.numpy()})[0])
    assert bool(maps[1].isnan().all())
    assert float((maps[[0, 2]] - expected.maps[[0, 2]]).abs().max()) < BAR


class SpoilsOne(nn.Module):
    """A network of which one class's logit is NaN on an image that is bright, and nothing else is."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        logits = self.net(x)
        bright = torch.log(5.0 - x.amax(dim=(1, 2, 3)))[:, None]  # NaN beyond 5
        return torch.cat([logits[:, :3], logits[:, 3:4] + 0.0 * bright, logits[:, 4:]], dim=1)


@pytest.mark.long
def test_one_logit_that_is_not_finite_spoils_the_map(tmp_path):
    path, config = tmp_path / "model.onnx", Config()  # without contrast, no gradient looks at it
    deploy.export(SpoilsOne().eval(), path, images(2).clamp(-2, 2), target_layer="net.7", config=config)
    given = images(3).clamp(-2, 2)
    given[1, 0, 0, 0] = 6.0
    maps = torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"images": given.numpy()})[0])
    assert maps.isnan().flatten(1).all(1).tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"image 1|images 1"):
        deploy.load(path)(given)


def test_a_blank_image_has_an_empty_map():
    dead = network()
    with torch.no_grad():
        dead[-1].weight[:] = -dead[-1].weight.abs()  # every position speaks against every class
    explain = CFCAM(dead, config=Config())
    maps, *_, empty, _ = plan.Plan.of(explain, images(2), 2, "predicted", None, "onnxruntime").graph()(images(2))
    assert bool(empty.all())
    assert float(maps.abs().max()) == 0


class Dims(nn.Module):
    """A network of volumes or signals."""

    def __init__(self, conv, pool):
        super().__init__()
        self.features = nn.Sequential(
            *(conv(2, 12, 3, stride=2, padding=1), nn.ReLU(), conv(12, 20, 3, stride=2, padding=1), nn.ReLU())
        )
        self.pool, self.head = pool(1), nn.Linear(20, 4)

    def forward(self, x):
        return {"logits": self.head(self.pool(self.features(x)).flatten(1))}


@pytest.mark.parametrize(
    ("conv", "pool", "shape"),
    [
        pytest.param(nn.Conv3d, nn.AdaptiveAvgPool3d, (2, 12, 16, 20), marks=pytest.mark.long),
        pytest.param(nn.Conv1d, nn.AdaptiveAvgPool1d, (2, 160), marks=pytest.mark.long),
    ],
)
def test_volumes_and_signals(tmp_path, conv, pool, shape):
    torch.manual_seed(0)
    model, given = Dims(conv, pool).eval(), torch.randn(3, *shape)
    path = tmp_path / "model.onnx"
    deploy.export(model, path, given)
    found = deploy.load(path)(given[:1])
    assert found.maps.shape == (1, *shape[1:])
    assert off(found, CFCAM(model)(given[:1])) < BAR


class Segmentation(nn.Module):
    """Logits (B, 3, H, W) from an encoder and an upsampling."""

    def __init__(self):
        super().__init__()
        self.encoder = network()[:8]
        self.head = nn.Conv2d(40, 3, 1)

    def forward(self, x):
        return {"out": nn.functional.interpolate(self.head(self.encoder(x)), x.shape[-2:], mode="bilinear")}


@pytest.mark.long
def test_a_segmentation_explains_the_class_that_is_chosen(tmp_path):
    torch.manual_seed(0)
    model, path = Segmentation().eval(), tmp_path / "model.onnx"
    with torch.no_grad():
        model.head.bias -= model(images(2))["out"].mean(dim=(0, 2, 3))
    target = cfcam_gpu.targets.Segment(1)
    said = deploy.export(model, path, images(3), target=target)
    found, expected = deploy.load(path)(images(3)), CFCAM(model)(images(3), target)
    assert said.segment == 1
    assert not bool(expected.empty.any())
    assert off(found, expected) < BAR


def test_explainers_are_exported_as_they_are(model):
    explain = refusals.explainer_of(CAM(model, "4", method="cfcam-paper"), None, None)
    found = plan.Plan.of(explain, images(2), 2, "predicted", None, "onnxruntime")
    assert [layer.name for layer in found.described_layers()] == ["4"]
    assert found.config == Config.paper()


def test_a_file_that_is_wrong_is_not_written(model, any_batch, tmp_path, monkeypatch):
    wrong = onnx.load(any_batch[0])
    (last,) = [node for node in wrong.graph.node if "maps" in node.output]
    last.output[list(last.output).index("maps")] = "right"
    wrong.graph.node.append(onnx.helper.make_node("Mul", ["right", "right"], ["maps"]))
    monkeypatch.setattr(onnx_file.OnnxFile, "of", lambda *args, **options: onnx_file.OnnxFile(wrong, "0" * 64))
    with pytest.raises(RuntimeError, match="maps are not the library's"):
        deploy.export(model, tmp_path / "model.onnx", images(2))
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_a_file_is_not_checked(model, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    found = plan.Plan.of(CFCAM(model), images(2), 2, "predicted", None, "onnxruntime").check(tmp_path / "model.onnx")
    assert not found.checked
    assert "not checked" in str(found)
