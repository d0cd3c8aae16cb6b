"""result.trust(): each figure by plain calls of the explainer, what can't be asked, and what is refused."""

import copy
import math
import pickle
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM, targets
from cfcam_gpu.core.finite import NotFiniteError
from cfcam_gpu.explain import Bag
from cfcam_gpu.results import Trust, trust


def network(spatial_dims=2, classes=6):
    convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        net = nn.Sequential(
            convolution(3, 8, 3, padding=1),
            nn.ReLU(),
            convolution(8, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(12, classes),
        )
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def images():
    """Smooth, as photographs are: maps of them bear some noise."""
    noise = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    return nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)


def correlation(first, second):
    return np.corrcoef(first.flatten().double().numpy(), second.flatten().double().numpy())[0, 1]


def gap_by_hand(net, layer, images, classes, score):
    """|sum of gradient times activation - (score - score without the activations)| / |the latter|, by autograd."""
    activation = net[: layer + 1](images).detach().requires_grad_()

    def scores(given):
        return torch.stack([score(row, int(k)) for row, k in zip(net[layer + 1 :](given), classes)])

    found = scores(activation)
    (gradient,) = torch.autograd.grad(found.sum(), activation)
    evidence = (gradient * activation).flatten(1).sum(dim=1)
    change = found - scores(torch.zeros_like(activation))
    return ((evidence - change).abs() / change.abs()).detach().numpy()


EXPLAINERS = {
    "cfcam": lambda net: CFCAM(net),
    "paper": lambda net: CAM(net, "3", method="cfcam-paper"),
    "gradcam": lambda net: CAM(net, "3"),
    "eigencam": lambda net: CAM(net, "3", method="eigencam"),
    "several looks": lambda net: CFCAM(net, "3", augment="flip"),
    "several layers": lambda net: CAM(net, ["1", "3"], method="layercam"),
    "smoothed": lambda net: CFCAM(net, "3", smooth=2),
    "smoothed by the method": lambda net: CAM(net, "1", method="smoothgradcam++"),
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_each_figure_by_plain_calls(net, images, name):
    explain, classes = EXPLAINERS[name](net), torch.tensor([0, 3, 5])
    result = explain(images, classes)
    assert not result.empty.any()
    found = result.trust(images)
    flipped = explain(images.flip(3), result.target).maps.flip(2)
    generator = torch.Generator().manual_seed(0)
    noisy = []
    for _ in range(4):
        drawn = torch.randn(images.shape[1:], generator=generator)
        copies = torch.stack([x + 0.1 * (x.max() - x.min()) * drawn for x in images])
        noisy.append(explain(copies, result.target).maps)
    others = [next(k for k in row.argsort(descending=True) if k != own) for row, own in zip(result.logits, classes)]
    other = explain(images, torch.stack(others)).maps
    assert torch.equal(found.runner_up, torch.stack(others))
    for b in range(3):
        np.testing.assert_allclose(found.flip[b], correlation(result.maps[b], flipped[b]), atol=1e-4)
        expected = np.mean([correlation(result.maps[b], one[b]) for one in noisy])
        np.testing.assert_allclose(found.noise[b], expected, atol=1e-4)
        top = [set(one[b].flatten().topk(480 // 20).indices.tolist()) for one in (result.maps, other)]
        np.testing.assert_allclose(found.agreement[b], len(top[0] & top[1]) / 24, atol=1e-9)
    if name in ("eigencam", "several looks", "several layers", "smoothed"):
        assert found.gap is None
    else:
        contrast = 0.0 if result.config is None else result.config.contrast

        def score(logits, target):
            rivals = torch.cat([logits[:target], logits[target + 1 :]])
            return logits[target] - contrast * rivals.logsumexp(dim=0)

        expected = gap_by_hand(net, int(result.layers[0].name), images, result.target, score)
        np.testing.assert_allclose(found.gap, expected, rtol=1e-2, atol=1e-5)
    assert all(one.dtype == torch.float64 and one.shape == (3,) for one in (found.flip, found.noise, found.agreement))


def test_what_a_map_owes_to_nothing_but_the_activations_knows_no_class(net, images):
    found = CAM(net, "3", method="eigencam")(images).trust(images)
    assert found.agreement.tolist() == [1, 1, 1]
    assert CFCAM(net, "3", augment="flip")(images).trust(images).flip.tolist() == pytest.approx([1, 1, 1])


def test_the_gap_is_of_what_is_differentiated(net, images):
    assert (CAM(net, "3")(images).trust(images).gap < 1e-4).all(), "a logit at a linear head"
    result = CAM(net, "3", method="shapleycam")(images)
    expected = gap_by_hand(net, 3, images, result.target, lambda row, k: row[k] + row.log_softmax(dim=0)[k])
    assert (expected > 1e-4).any()
    np.testing.assert_allclose(result.trust(images).gap, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{"method": "finercam"}, {"method": "gradcam", "libragrad": True}])
def test_there_is_no_gap_of_classes_picked_by_their_logits_nor_of_sums_with_the_biases_part(net, images, options):
    assert CAM(net, "3", **options)(images).trust(images).gap is None


@pytest.mark.parametrize("spatial_dims", [1, 3])
def test_signals_and_volumes_are_flipped_along_their_last_axis(spatial_dims):
    net = network(spatial_dims)
    images = torch.rand(2, 3, *(10, 8, 6)[:spatial_dims], generator=torch.Generator().manual_seed(1)).cumsum(dim=-1)
    explain = CAM(net, "3")
    result = explain(images)
    found = result.trust(images)
    flipped = explain(images.flip(-1), result.target).maps.flip(-1)
    expected = [0 if result.empty[b] else correlation(result.maps[b], flipped[b]) for b in range(2)]
    np.testing.assert_allclose(found.flip.nan_to_num(), expected, atol=1e-4)
    assert not result.empty.all()


def test_callables_have_no_runner_up_and_no_gap(net, images):
    explain = CAM(net, "3")
    by_class = explain(images, [0, 3, 5]).trust(images)
    found = explain(images, [lambda logits, k=k: logits[k] for k in (0, 3, 5)]).trust(images)
    assert (found.runner_up, found.agreement, found.gap) == (None, None, None)
    torch.testing.assert_close(found.noise, by_class.noise)
    torch.testing.assert_close(found.flip, by_class.flip)
    assert "no other class to compare with" in str(found)


def test_a_target_that_names_a_place_is_not_flipped():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    images = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(12, 12)
    mask[:4, :4] = 1
    explain = CAM(net, "1", method="layercam")
    assert explain(images, targets.Segment(1, mask=mask)).trust(images).flip is None
    assert explain(images, targets.Segment(1)).trust(images).flip is not None


def test_an_empty_map_has_no_figures(images):
    net = network()
    net[7].weight.data[4] = -net[7].weight.data[4].abs()  # nothing speaks for class 4
    result = CAM(net, "3")(images, [4, 1, 2])
    assert result.empty[0]
    found = result.trust(images)
    for of_map in (found.flip, found.noise, found.agreement):
        assert math.isnan(of_map[0])
        assert not of_map[1:].isnan().any()
    assert str(found).splitlines()[0] == "image 0, class 4: the map is empty; completeness gap 0.00"


def test_a_runner_up_whose_map_is_empty_is_no_sign_of_class_sensitivity(images):
    net = network()
    net[7].weight.data[4] = -net[7].weight.data[4].abs()  # nothing speaks for class 4
    net[7].bias.data[4] = 9
    result = CAM(net, "3")(images, [0, 1, 2])
    found = result.trust(images)
    assert found.runner_up.tolist() == [4, 4, 4]
    assert found.runner_up_empty.all()
    assert found.agreement.isnan().all()
    assert "under noise; the runner-up's map, of class 4, is empty; completeness" in str(found)
    assert not CAM(net, "3")(images, [4, 4, 4]).trust(images).runner_up_empty.any()


def test_a_model_without_an_answer_without_the_layer_has_no_gap(images):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            features = self.net[:7](images)
            return self.net[7](features / features.norm(dim=1, keepdim=True))

    found = CAM(Normed(), "net.3")(images).trust(images)
    assert found.gap.isnan().all()
    assert str(found).count("; no completeness gap, as the model has no answer without the layer") == 3


def test_an_images_figures_are_the_same_in_any_batch(net, images):
    explain = CAM(net, "3")
    together = explain(images).trust(images)
    for b in range(3):
        alone = explain(images[b : b + 1]).trust(images[b : b + 1])
        for name in ("flip", "noise", "agreement", "gap"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[b], rtol=1e-4, atol=1e-6)


def test_a_part_whose_noise_was_drawn_with_the_whole_batch_is_refused(net, images):
    result = EXPLAINERS["smoothed"](net)(images)
    result[:].trust(images)
    with pytest.raises(ValueError, match="trust: this explanation is of noise that was drawn for a whole batch"):
        result[1].trust(images[1:2])


@pytest.mark.parametrize("empty", [False, True])
def test_a_runner_up_that_is_masked_out_is_not_explained(images, empty):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()
            if empty:
                self.net[7].weight.data[2] = -self.net[7].weight.data[2].abs()

        def forward(self, images):
            mask = torch.full((6,), -torch.inf)
            mask[2] = 0
            return self.net(images) + mask

    found = CAM(Masked(), "net.3")(images).trust(images)
    assert found.agreement.isnan().all()
    assert not found.runner_up_empty.any()
    assert found.noise.isnan().all() == empty
    assert str(found).count("the map is empty" if empty else "no other class to compare with") == 3


def test_it_reads_well():
    values = [torch.tensor([x], dtype=torch.float64) for x in (0.934, 0.97, 0.388, 0.021)]
    found = Trust(
        values[0], values[1], torch.tensor([207]), values[2], values[3], torch.tensor([False]), ["tabby"], ["golden"]
    )
    shares = "shares 39% of its top with the runner-up, golden"
    assert (
        str(found) == f"image 0, tabby: stability 0.93 under a flip, 0.97 under noise; {shares}; completeness gap 0.02"
    )
    assert repr(found) == str(found)
    assert len(found) == 1


def test_copies_go_through_together_within_the_budget(net, images, monkeypatch):
    explain = CFCAM(net)
    result = explain(images)
    batches = []
    handle = net[0].register_forward_hook(lambda module, args, output: batches.append(len(output)))
    expected = result.trust(images)
    assert max(batches) == 15, "a flipped and four noisy copies of three images"
    batches.clear()
    monkeypatch.setattr(trust, "DEFAULT_MEMORY", 1)
    found = result.trust(images)
    handle.remove()
    assert max(batches) == 3, "as many as were explained"
    for name in ("flip", "noise", "agreement", "gap"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-6)


@contextmanager
def failing(net, size, error):
    """The sizes of the batches that come, of which one of `size` fails."""
    batches = []

    def fail(module, args, output):
        batches.append(len(output))
        if len(output) == size:
            raise error

    handle = net[0].register_forward_hook(fail)
    try:
        yield batches
    finally:
        handle.remove()


def test_memory_that_is_out_makes_smaller_batches(net, images):
    explain = CFCAM(net)
    result = explain(images)
    expected = result.trust(images)
    with failing(net, 15, RuntimeError("out of memory")) as batches:
        found = result.trust(images)
    at = batches.index(15)
    assert batches[at:][:6] == [15, 3, 3, 3, 3, 3]
    torch.testing.assert_close(found.noise, expected.noise, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.flip, expected.flip, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("error", [KeyError("weights"), NotFiniteError("logits")], ids=str)
def test_what_is_not_of_the_number_of_images_is_not_tried_again(net, images, error):
    result = CFCAM(net)(images)
    with failing(net, 15, error) as batches, pytest.raises(type(error)):
        result.trust(images)
    assert batches[-1] == 15


def test_a_model_that_takes_no_other_number_of_images(images):
    class OfAll(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, views):
            return self.net(views).mean(dim=0, keepdim=True)

    bag = images[None]
    found = CAM(Bag(OfAll()), "model.net.3")(bag).trust(bag)
    assert found.noise.shape == (1,)
    assert not found.noise.isnan()


def test_half_precision_and_inference_mode(net, images):
    expected = CAM(net, "3")(images).trust(images)
    half = CAM(copy.deepcopy(net).bfloat16(), "3")(images.bfloat16()).trust(images.bfloat16())
    assert torch.equal(half.runner_up, expected.runner_up)
    torch.testing.assert_close(half.flip, expected.flip, atol=0.1, rtol=0)
    with torch.inference_mode():
        again = CAM(net, "3")(images).trust(images)
    torch.testing.assert_close(again.noise, expected.noise)


def test_nothing_of_the_users_changes(net, images):
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    result = CFCAM(net)(images)
    maps = result.maps.clone()
    first = result.trust(images)
    second = result.trust(images)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("flip", "noise", "agreement"))
    assert torch.equal(result.maps, maps)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_do_not_meet(net, images):
    result = CFCAM(net)(images)
    expected, found = result.trust(images), {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: result.trust(images[:])})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(one.noise, expected.noise) for one in found.values())
    assert all(torch.equal(one.gap, expected.gap) for one in found.values())


def test_what_is_refused(net, images):
    explain = CFCAM(net, "3")
    result = explain(images)
    for lost in (pickle.loads(pickle.dumps(result)), copy.copy(result)):
        with pytest.raises(ValueError, match=r"trust: this explanation does not know its explainer.*CFCAM or a CAM"):
            lost.trust(images)
    several = explain(images, torch.tensor([[0, 1], [1, 2], [2, 3]]))
    with pytest.raises(ValueError, match=r"trust: expected one target an image; .* has 2.*target\[:, t\]"):
        several.trust(images)
    with pytest.raises(ValueError, match=r"images: expected those that were explained, \(3, 3, 24, 20\); got"):
        result.trust(images[:2])
    with pytest.raises(TypeError, match="images: expected a torch tensor"):
        result.trust(images.numpy())
    for of in (result, CAM(net, ["1", "3"], method="refinecam")(images)):
        with pytest.raises(TypeError, match=r"images: expected torch\.float32, as those .* got torch\.float64"):
            of.trust(images.double())
    with pytest.raises(ValueError, match="images: expected those that were explained, prepared in the same way"):
        result.trust(images + 1)
    by_callable = explain(images, lambda logits: logits[0])
    with pytest.raises(ValueError, match="images: expected those that were explained, prepared in the same way"):
        by_callable.trust(images.flip(0))
