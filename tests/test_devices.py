"""The GPU's own tests of whole calls, on a device that is pretended: nothing of the host meets what is on the device.

What a GPU alone has, its kernels, streams and threads, only ``tests/gpu`` shows there.
"""

import pytest
import torch

from cfcam_gpu import CFCAM, Config

from .elsewhere import DEVICE, MixedDevicesError, elsewhere
from .gpu import test_detection, test_metrics, test_pipelines, test_results, test_whole_calls
from .gpu.beside import double, same
from .small import Network, draw
from .transformers_small import VisionTransformer
from .transformers_small import images as patches

#: Of the files of ``tests/gpu``, the tests whose work is torch's and ours alone, and fixtures of these.
TESTS = {
    test_whole_calls: [
        "test_the_default_call_is_the_cpus_and_on_the_device",
        "test_each_configuration_by_a_layers_name",
        "test_engines_of_the_host_answer_on_the_device",
        "test_augmented_it_is_the_cpus_and_smoothed_the_same_again",
        "test_several_layers_are_fused",
        "test_models_of_other_dtypes_are_explained_nearly_as_in_float64",
        "test_lists_of_layers_and_bags_of_images",
        "test_ready_targets_meet_the_output_where_it_is",
    ],
    test_results: [
        *("images", "explained", "expected"),
        "test_parts_are_on_the_device_whatever_picks_them",
        "test_copies_are_on_the_host_or_where_they_were",
        "test_overlays_are_made_on_the_device",
        "test_a_notebook_shows_the_images_until_they_change",
        "test_figures_and_files",
        "test_trust_is_the_cpus_but_for_the_noise",
        "test_what_the_model_says_without_a_component",
    ],
    test_metrics: [
        "test_figures_are_the_cpus",
        "test_what_draws_is_the_same_every_time_and_on_the_device",
        "test_means_and_mosaics",
    ],
    test_detection: [
        "detector",
        "test_boxes_of_a_batch_are_explained_as_on_the_cpu_and_one_by_one",
        "test_boxes_and_labels_may_be_on_the_host",
    ],
    test_pipelines: ["test_a_batch_is_the_cpus_and_a_bad_image_has_its_error"],
}
globals().update({name: getattr(file, name) for file, names in TESTS.items() for name in names})


@pytest.fixture
def device():
    with elsewhere() as pretended:
        yield pretended


@pytest.fixture
def running():
    """The one engine that is there."""
    return "auto"


def test_a_transformer_by_a_layers_name_with_libragrad_and_a_gate(device):
    model, given = double(VisionTransformer(depth=3)), patches().double()
    expected = CFCAM(model, "blocks.1", config=Config.gated(), libragrad=True)(given)
    model = model.to(device)
    same(CFCAM(model, "blocks.1", config=Config.gated(), libragrad=True)(given.to(device)), expected, device)


MIXED = {
    "a sum": lambda x: x + torch.ones(3),
    "a row": lambda x: torch.cat([x, torch.zeros(1)]),
    "an index": lambda x: x.index_select(0, torch.tensor([0])),
    "a table of the host": lambda x: torch.arange(5)[x.long()],
    "what a backward does": lambda x: torch.autograd.grad(
        (x * 2).sum(), x, torch.ones(()).expand(1)[0] + torch.ones(1)
    ),
    "NumPy": lambda x: x.detach().numpy(),
    "a generator": lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_cuda_refuses_is_refused(device, name):
    with pytest.raises((MixedDevicesError, RuntimeError, TypeError)):
        MIXED[name](torch.rand(3).to(device).requires_grad_())


def test_what_cuda_takes_is_taken(device):
    x = torch.rand(3).to("cuda")
    made = [torch.zeros(2, device=x.device), torch.zeros_like(x), x.new_tensor([1.0]), x * 2.0, x + torch.tensor(1.0)]
    made += [x[torch.tensor([0, 2])], x.double(), x.detach(), x.clone().copy_(torch.ones(3)), x.to(torch.float16)]
    made += [torch.randn(3, device="cuda", generator=torch.Generator(x.device)), torch.tensor([1], device=device)]
    assert {one.device for one in made} == {DEVICE}
    assert {one.device.type for one in (x.cpu(), x.to("cpu"), x.to(torch.rand(1)), torch.rand(2))} == {"cpu"}
    assert next(Network().to(device).parameters()).is_cuda


def test_a_call_that_mixes_them_fails(device):
    """The images are left on the host; and a model has a table there."""
    with pytest.raises(ValueError, match="images: expected"):
        CFCAM(Network().eval().to(device), "late")(draw(0))

    class Table(Network):
        def forward(self, given):
            return super().forward(given) * torch.ones(5)

    with pytest.raises(MixedDevicesError, match="on the same device"):
        CFCAM(Table().eval().to(device), "late")(draw(0).to(device))
