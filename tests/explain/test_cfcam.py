"""The public face: CFCAM, Explanation and cluster_filter_cam."""

import copy
import dataclasses
import io
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import cfcam_gpu
from cfcam_gpu import CFCAM, Config, cluster_filter_cam
from cfcam_gpu.explain import GraphedExplanation

from ..derivation import cf_cam
from ..networks import captured, lite0, photographs


@pytest.fixture(scope="module")
def images():
    return photographs()[1] * 2 - 1


@pytest.fixture(scope="module")
def explain():
    return CFCAM(lite0(), "_avg_pooling.input")


@pytest.fixture(scope="module")
def result(explain, images):
    return explain(images)


def test_a_graphs_explanation_prints_one_line_too(images):
    result = CFCAM(lite0(), "_avg_pooling.input")(images[:1])
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    graphed = GraphedExplanation(**fields, finite=torch.ones(1, dtype=torch.bool), overlays=None)
    assert repr(graphed) == repr(result).replace("<Explanation", "<GraphedExplanation")


def test_the_public_names():
    classes = {"CAM", "CFCAM", "Config", "Explanation"}
    functions = {"cluster_filter_cam", "compare", "explain_detections", "explain_point", "explain_text"}
    folders = {
        "core",
        "deploy",
        "detection",
        "engines",
        "explain",
        "hooks",
        "methods",
        "metrics",
        "photographs",
        "pipelines",
        "results",
        "targets",
    }
    assert set(cfcam_gpu.__all__) == classes | functions | folders | {"environment", "layers", "__version__"}
    assert all(hasattr(cfcam_gpu, name) for name in cfcam_gpu.__all__)
    assert cfcam_gpu.layers.find is cfcam_gpu.hooks.find


@pytest.mark.parametrize("config", [Config(), Config.paper()], ids=["default", "paper"])
def test_maps_are_the_derived_ones_upsampled_and_over_their_maximum(images, config):
    result = CFCAM(lite0(), "_avg_pooling.input", config=config)(images[:2])
    activations, gradients = captured()
    for b in range(2):
        labels, eps, weights, evidence = cf_cam(activations[b], gradients[b], config)
        np.testing.assert_array_equal(result.labels[b], labels)
        np.testing.assert_allclose(result.eps[b], eps, atol=1e-5)
        np.testing.assert_allclose(result.weights[b], weights, atol=1e-5)
        np.testing.assert_allclose(result.raw_maps[b], evidence, atol=1e-5)
        large = functional.interpolate(torch.tensor(evidence)[None, None], size=(224, 224), mode="bilinear")[0, 0]
        np.testing.assert_allclose(result.maps[b], large / large.max(), atol=1e-5)


def test_the_result(result, explain, images):
    where = f"cfcam at _avg_pooling.input for class {result.target[0]}, ..."
    assert repr(result) == f"<Explanation by {where}: maps (6, 224, 224) of (6, 7, 7), on {images.device}>"
    assert result.maps.shape == (6, 224, 224)
    assert result.raw_maps.shape == (6, 7, 7)
    assert result.labels.shape == result.weights.shape == (6, 1280)
    assert result.eps.shape == result.target.shape == result.empty.shape == (6,)
    assert len(result) == 6
    assert [layer.name for layer in result.layers] == ["_avg_pooling.input"]
    assert bool((result.maps.amax((1, 2)) == 1).all())
    assert bool((result.maps >= 0).all())
    with torch.no_grad():
        torch.testing.assert_close(result.logits, lite0()(images))
    assert torch.equal(result.target, result.logits.argmax(1))
    assert not result.empty.any()
    for labels, weights in zip(result.labels, result.weights):
        assert {-3, -2, -1, 0} <= set(labels.tolist())
        assert not weights[labels < 0][labels[labels < 0] != -2].any()


def test_dead_channels_are_those_that_are_zero_everywhere(result):
    activations, _ = captured()
    dead = torch.tensor((activations == 0).all(axis=(2, 3)))
    assert torch.equal(result.labels == -3, dead)
    assert 0.25 < dead.float().mean() < 0.75


def test_each_image_is_explained_as_if_alone(result, explain, images):
    for b in (0, 4):
        alone = explain(images[b : b + 1])
        torch.testing.assert_close(alone.maps[0], result.maps[b], atol=1e-4, rtol=0)
        assert torch.equal(alone.labels[0], result.labels[b])


def test_the_same_call_gives_the_same_bytes(result, explain, images):
    again = explain(images)
    assert torch.equal(again.maps, result.maps)
    assert torch.equal(again.weights, result.weights)


def test_several_targets_an_image_from_one_forward(explain, images):
    calls = []
    handle = lite0().register_forward_hook(lambda *args: calls.append(1))
    several = explain(images[:2], target=[[281, 207, 967], [967, 281, 504]])
    handle.remove()
    assert len(calls) == 1
    assert several.maps.shape == (2, 3, 224, 224)
    assert several.labels.shape == several.weights.shape == (2, 3, 1280)
    assert several.eps.shape == several.target.shape == several.empty.shape == (2, 3)
    for t in range(3):
        single = explain(images[:2], target=several.target[:, t])
        torch.testing.assert_close(several.maps[:, t], single.maps)
        assert torch.equal(several.labels[:, t], single.labels[:])


def test_between_a_forward_and_its_backward():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    loss = model(images).sum()
    with pytest.warns(UserWarning, match="training mode"):
        CFCAM(model, "2")(images)
    loss.backward()  # the running statistics that autograd kept for it are as they were
    assert model[0].weight.grad.any()


def test_a_callable_may_contrast_two_classes(explain, images):
    contrast = explain(images[:1], target=lambda logits: logits[281] - logits[285])
    assert contrast.target is None
    plain = explain(images[:1], target=[[281, 285]])
    assert contrast.weights.any()
    torch.testing.assert_close(contrast.weights[0], plain.weights[0, 0] - plain.weights[0, 1], atol=1e-6, rtol=1e-4)


def test_polarity(explain, images):
    """Higher is more evidence: covering what the map shows lowers the score more than covering the rest."""
    result = explain(images[1:2])
    shown = result.maps[0] >= result.maps[0].flatten().quantile(0.7)
    with torch.no_grad():
        without_shown, without_rest = (
            lite0()(images[1:2] * keep).softmax(1)[0, result.target[0]] for keep in (~shown, shown)
        )
    assert without_shown < without_rest


def test_no_positive_evidence_is_an_empty_map(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.constant_(model[4].weight, -1.0)
    result = CFCAM(model, "1")(images[:2], 0)
    assert result.empty.tolist() == [True, True]
    assert not result.maps.any()


def test_arrays_out(result):
    np.testing.assert_array_equal(result.numpy(), result.maps)
    assert torch.equal(torch.from_dlpack(result), result.maps)
    np.testing.assert_array_equal(np.from_dlpack(result), result.maps)
    with pytest.raises(ValueError, match="cupy: expected a tensor on a CUDA device; got one on 'cpu'"):
        result.cupy()


def test_overlay(result, images):
    pixels = photographs()[1]
    over = result.overlay(pixels)
    assert (over.shape, over.dtype) == ((6, 224, 224, 3), torch.uint8)
    # Where there is no evidence the photograph shows as it is; normalised and uint8 images give the same.
    bare = result.maps == 0
    assert bare.any()
    unchanged = pixels.movedim(1, -1)[bare].mul(255).round().to(torch.uint8)
    assert torch.equal(over[bare], unchanged)
    assert torch.equal(result.overlay(pixels.mul(255).round().to(torch.uint8)), over)
    assert not torch.equal(result.overlay(pixels, alpha=1.0), over)
    assert torch.equal(result.overlay(pixels, alpha=0.0)[0], pixels[0].movedim(0, -1).mul(255).round().to(torch.uint8))
    stretched = result.overlay(images).float() - over.float()
    assert stretched.abs().mean() < 3
    gray = result.overlay(pixels[:, :1], alpha=0)
    assert torch.equal(gray[..., 0], gray[..., 2])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": torch.rand(6, 3, 7, 7)}, ValueError, r"images: expected \(B, 3, H, W\) .*got \(6, 3, 7, 7\)"),
        ({"images": torch.rand(5, 3, 224, 224)}, ValueError, r"got \(5, 3, 224, 224\)"),
        ({"images": np.zeros((6, 3, 224, 224))}, TypeError, "images: expected a torch tensor; got ndarray"),
        ({"images": torch.zeros(6, 3, 224, 224, dtype=torch.int32)}, TypeError, "uint8 or a floating dtype"),
        ({"images": torch.rand(6, 3, 224, 224), "alpha": 1.5}, ValueError, r"alpha: expected a number in \[0, 1\]"),
        ({"images": torch.rand(6, 3, 224, 224), "colormap": "heat"}, ValueError, "colormap: matplotlib has none"),
    ],
)
def test_overlay_refuses_by_name(result, options, error, message):
    with pytest.raises(error, match=message):
        result.overlay(options.pop("images"), **options)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 3, 8, 8)), TypeError, r"images: expected a torch tensor \(B, 3, H, W\); got ndarray"),
        (
            torch.rand(3, 8, 8),
            ValueError,
            r"images: expected shape \(B, 3, H, W\), nothing of it empty; got \(3, 8, 8\)",
        ),
        (torch.rand(0, 3, 8, 8), ValueError, r"nothing of it empty; got \(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "images: expected a floating dtype; got torch.uint8"),
        (torch.rand(1, 3, 8, 8, device="meta"), ValueError, "images: expected device 'cpu', as the model; got 'meta'"),
    ],
)
def test_images_are_refused_by_name_before_the_model_runs(explain, images, error, message):
    calls = []
    handle = lite0().register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(error, match=message):
        explain(images)
    handle.remove()
    assert not calls


def test_a_wrong_target_or_engine_is_refused_before_the_model_runs(explain, images):
    calls = []
    handle = lite0().register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(ValueError, match="target: expected one for each of the 6 images; got 2"):
        explain(images, target=[1, 2])
    with pytest.raises(ValueError, match="engine: 'rapids' works on CUDA tensors; got tensors on 'cpu'"):
        CFCAM(lite0(), engine="rapids")(images)
    handle.remove()
    assert not calls
    with pytest.raises(ValueError, match=r"engine: expected one of auto, cpu, .*; got 'gpu'"):
        CFCAM(lite0(), engine="gpu")
    with pytest.raises(TypeError, match=r"config: expected a cfcam_gpu\.Config; got dict"):
        CFCAM(lite0(), config={})
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module; got function"):
        CFCAM(lambda x: x)


def test_nan_is_reported_by_image(explain, images):
    broken = images[:3].clone()
    broken[1, :, 100, 100] = float("nan")
    with pytest.raises(ValueError, match="activations: expected finite numbers within float32; image 1 has NaN"):
        explain(broken)


def test_maps_from_arrays_one_already_has(result):
    activations, gradients = (torch.tensor(array, dtype=torch.float32) for array in captured())
    maps = cluster_filter_cam(activations, gradients)
    torch.testing.assert_close(maps, result.raw_maps)
    torch.testing.assert_close(cluster_filter_cam(activations[2], gradients[2]), result.raw_maps[2])
    paper = cluster_filter_cam(activations, gradients, config=Config.paper(), engine="cpu")
    assert not torch.allclose(paper / paper.amax(), maps / maps.amax(), atol=0.05)


@pytest.mark.parametrize(
    ("activations", "gradients", "error", "message"),
    [
        (torch.rand(4, 4), torch.rand(4, 4), ValueError, r"activations: expected shape \(C, h, w\) or"),
        (torch.rand(2, 4, 3, 3), torch.rand(4, 3, 3), ValueError, r"gradients: expected the shape of activations"),
        (torch.rand(0, 4, 3, 3), torch.rand(0, 4, 3, 3), ValueError, "at least one image, channel and position"),
        (torch.rand(4, 0, 3), torch.rand(4, 0, 3), ValueError, "at least one image, channel and position"),
        ([[[1.0]]], torch.rand(1, 1, 1), TypeError, "activations: expected a torch, CuPy or NumPy array"),
        (torch.rand(1, 1, 1), torch.ones(1, 1, 1).long(), TypeError, "gradients: expected a floating dtype"),
        (
            torch.full((1, 1, 1), 1e300, dtype=torch.float64),
            torch.rand(1, 1, 1),
            ValueError,
            "activations: .*within float32",
        ),
        (torch.rand(3, 2, 2), torch.full((3, 2, 2), torch.inf), ValueError, "gradients: expected finite"),
    ],
)
def test_cluster_filter_cam_refuses_by_name(activations, gradients, error, message):
    with pytest.raises(error, match=message):
        cluster_filter_cam(activations, gradients)


def test_eight_threads_on_one_model(explain, images):
    """Different targets at once, on one explainer and on several: every map is the single-threaded one."""
    wanted = [281, 207, 967, 504, 657, 985, 698, 1]
    expected = [explain(images[:2], target).maps for target in wanted]
    found: dict[tuple[int, int], torch.Tensor] = {}
    errors = []
    start = threading.Barrier(8)

    def work(index):
        own = explain if index % 2 else CFCAM(lite0(), "_avg_pooling.input")
        try:
            start.wait()
            for turn in range(2):
                found[index, turn] = own(images[:2], wanted[index]).maps
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 16
    for (index, _), maps in found.items():
        assert torch.equal(maps, expected[index])


def test_on_mosaics_the_default_finds_the_cell_and_the_paper_does_not(explain, images):
    """Share of energy in the right cell of 2 x 2 mosaics; chance is 0.25. The paper's softmax can't tell classes."""
    classes = explain(images).target.tolist()
    shares = {}
    for name, config in (("default", Config()), ("paper", Config.paper())):
        found = []
        for members in ([0, 1, 2, 5], [1, 5, 4, 0]):
            cells = images[members]
            mosaic = torch.cat([torch.cat([cells[0], cells[1]], 2), torch.cat([cells[2], cells[3]], 2)], 1)
            maps = CFCAM(lite0(), "_avg_pooling.input", config=config)(
                mosaic[None], [[classes[member] for member in members]]
            ).maps[0]
            for t, energy in enumerate(maps):
                row, column = divmod(t, 2)
                own = energy[row * 224 : (row + 1) * 224, column * 224 : (column + 1) * 224]
                found.append(float(own.sum() / energy.sum()))
        shares[name] = np.mean(found)
    assert shares["default"] >= 0.5
    assert abs(shares["paper"] - 0.25) < 0.01


def test_importing_the_package_does_not_import_torch():
    code = "import sys, cfcam_gpu; cfcam_gpu.Config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'cfcam_gpu' has no attribute 'GradCAM'"):
        cfcam_gpu.GradCAM  # noqa: B018


def saved_by_torch(result):
    file = io.BytesIO()
    torch.save(result, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_copied_explanation_leaves_the_model_behind(images):
    result = CFCAM(lite0())(images[:1])
    own = sum(value.nbytes for value in (*vars(result).values(), result.maps) if isinstance(value, torch.Tensor))
    assert len(pickle.dumps(result)) < own + 8192
    for copied in (lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy, saved_by_torch):
        again = copied(result)
        assert again.origin is None
        assert [replace(layer, module=None) for layer in result.layers] == list(again.layers)
        assert torch.equal(again.maps, result.maps)
        with pytest.raises(ValueError, match="does not know its model"):
            again.components(images[:1])
    assert result.origin is not None
    assert all(layer.module is not None for layer in result.layers)
    with pytest.raises(ValueError, match=r"found in another model.*Give its name"):
        CFCAM(lite0(), again.layers)


def test_the_first_call_imports_no_library_that_takes_longer_than_it():
    # Old releases of torch have SymPy in torch.utils.checkpoint.
    code = """
import sys, torch, torch.utils.checkpoint
of_torch = set(sys.modules)
import cfcam_gpu
body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU())
model = torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3))
cfcam_gpu.CFCAM(model.eval(), "0.3")(torch.rand(2, 3, 32, 32))
print({"sympy", "sklearn", "pandas", "scipy.stats", "scipy.optimize"} & (set(sys.modules) - of_torch))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
