"""Whole calls on a GPU: default layers of images, volumes, signals and tokens, names, views, and ready targets."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cfcam_gpu import CAM, CFCAM, Config, targets
from cfcam_gpu.explain import Bag
from cfcam_gpu.hooks import candidates

from ..small import CONFIGS, LAYERS, Network, draw
from ..transformers_small import ChannelsLast, VisionTransformer
from ..transformers_small import images as patches
from .beside import NAMES, close, double, same

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]


def images(dims=2):
    return draw(0, dims=dims).double()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_default_call_is_the_cpus_and_on_the_device(running, device, dims):
    given, wanted = images(dims), ["cat", None, 4]
    expected = CFCAM(double(Network(dims)), class_names=NAMES)(given, wanted)
    explain = CFCAM(double(Network(dims)).to(device), class_names=NAMES, engine=running)
    same(explain(given.to(device), wanted), expected, device)
    assert len(expected.layers) == (1 if dims == 3 else 2)
    several = explain(given.to(device), torch.tensor([[0, 1], [2, 3], [4, 0]], device=device))
    assert several.classes == [["ant", "bee"], ["cat", "dog"], ["eel", "ant"]]
    close(several.maps[1, 0], explain(given.to(device), 2).maps[1].cpu(), device)


@pytest.mark.parametrize("make", [VisionTransformer, ChannelsLast], ids=lambda make: make.__name__)
def test_the_default_call_of_tokens_with_libragrad_and_a_gate(running, device, make):
    given = patches().double()
    expected = CFCAM(double(make()))(given)
    found = CFCAM(double(make()).to(device), engine=running)(given.to(device))
    same(found, expected, device)
    assert found.config == expected.config
    assert (found.config == Config.gated()) == (make is VisionTransformer)


@pytest.mark.parametrize("config", CONFIGS)
def test_each_configuration_by_a_layers_name(running, device, config):
    layer = list(LAYERS[config]) if isinstance(LAYERS[config], tuple) else LAYERS[config]
    expected = CFCAM(double(Network()), layer, config=CONFIGS[config])(images(), 4)
    found = CFCAM(double(Network()).to(device), layer, config=CONFIGS[config], engine=running)(images().to(device), 4)
    same(found, expected, device)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_engines_of_the_host_answer_on_the_device(device, engine):
    expected = CFCAM(double(Network()), "late", engine=engine)(images(), 4)
    found = CFCAM(double(Network()).to(device), "late", engine=engine)(images().to(device), 4)
    same(found, expected, device)


def test_augmented_it_is_the_cpus_and_smoothed_the_same_again(running, device):
    options = {"augment": ["flip", "rotate90"]}
    expected = CFCAM(double(Network()), "late", **options)(images(), [0, None, 2])
    model, given = double(Network()).to(device), images().to(device)
    same(CFCAM(model, "late", engine=running, **options)(given, [0, None, 2]), expected, device)
    noisy = [CAM(model, "late", method="cfcam", smooth=3, seed=7, engine=running)(given) for _ in range(2)]
    assert torch.equal(noisy[0].maps, noisy[1].maps)
    assert noisy[0].maps.device == device


def test_several_layers_are_fused(running, device):
    options = {"method": "cfcam", "fuse": "mean", "engine": running}
    expected = CAM(double(Network()), ["early", "late"], method="cfcam", fuse="mean")(images(), 1)
    found = CAM(double(Network()).to(device), ["early", "late"], **options)(images().to(device), 1)
    same(found, expected, device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_models_of_other_dtypes_are_explained_nearly_as_in_float64(running, device, dtype):
    expected = CAM(double(Network()), "late", method="gradcam")(images(), 4)
    model, given = Network().eval().to(device, dtype), images().to(device, dtype)
    found = CAM(model, "late", method="gradcam")(given, 4)
    assert found.maps.dtype == torch.float32
    difference = (found.maps.cpu() - expected.maps).abs().flatten(1).mean(dim=1)
    assert difference.max() < (0.05 if dtype == torch.bfloat16 else 0.02)
    clustered = CFCAM(model, "late", engine=running)(given, 4)
    assert clustered.maps.device == device
    assert bool(clustered.maps.isfinite().all())
    assert not bool(clustered.empty.any())


class Checkpointed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, tokens):
        return checkpoint(self.block, tokens, use_reentrant=False)


def test_a_checkpoint_runs_again_in_autograds_thread_with_libragrads_paths(device):
    """The backward of a GPU is another thread's, and so is what a checkpoint runs again in it."""
    given = patches().double()
    expected = CFCAM(double(VisionTransformer()), "blocks.1", libragrad=True)(given, 1)
    model = double(VisionTransformer())
    model.blocks = nn.Sequential(*model.blocks[:2], *map(Checkpointed, model.blocks[2:]))
    same(CFCAM(model.to(device), "blocks.1", libragrad=True)(given.to(device), 1), expected, device)


class Mean(Network):
    def forward(self, given):
        return super().forward(given).mean(dim=0)


def test_lists_of_layers_and_bags_of_images(device):
    model, given = double(Mean()), images()
    listed = [repr(one) for one in candidates(double(Network()), given)]
    assert [repr(one) for one in candidates(double(Network()).to(device), given.to(device))] == listed
    expected = CFCAM(Bag(model), "model.late")(given[None], 4)
    same(CFCAM(Bag(model.to(device)), "model.late")(given.to(device)[None], 4), expected, device)


# Targets that the caller made on the host


class Segmenting(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Network()
        self.head = nn.Conv2d(32, 3, 1)

    def forward(self, given):
        return self.head(self.network.late(self.network.early(given)))


class Boxes(nn.Module):
    """Two boxes of each image, whose scores are logits of a classifier."""

    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, given):
        scores = self.network(given)[:, :2].sigmoid()
        boxes = given.new_tensor([[0, 0, 5, 5], [4, 4, 10, 12]])
        return [{"boxes": boxes, "labels": boxes.new_tensor([0, 1]).long(), "scores": row} for row in scores]


REFERENCE = torch.tensor([0.3, -1.0, 0.2, 0.8, -0.1])
TARGETS = {
    "segment": (Segmenting, "network.late", targets.Segment(0)),
    "segment of a mask": (Segmenting, "network.late", targets.Segment(0, torch.ones(12, 10).tril().numpy())),
    "box": (Boxes, "network.late", targets.Detection([4, 5, 10, 12], 1)),
    "similarity": (Network, "late", targets.Similarity(REFERENCE)),
    "texts": (Network, "late", targets.ImageText(torch.stack([REFERENCE, REFERENCE.flip(0)]), 1)),
    "contrast": (Network, "late", targets.Contrast(0, [1, 3])),
    "others": (Network, "late", [targets.Probability(1), targets.Label(2, present=False), targets.Toward(0.5, 1)]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_ready_targets_meet_the_output_where_it_is(device, name):
    make, layer, target = TARGETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = double(make())
    expected = CAM(model, layer, method="layercam")(images(), target)
    found = CAM(model.to(device), layer, method="layercam")(images().to(device), target)
    close(found.maps, expected.maps, device)
    assert found.classes == expected.classes
    assert expected.maps.max() > 0
