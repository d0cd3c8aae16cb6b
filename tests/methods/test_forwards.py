"""The CAMs that look at the model itself: against their papers' equations, and what they run."""

import copy
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import CAM, targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.hooks.laying_out import laid_out
from cfcam_gpu.methods import forwards
from cfcam_gpu.methods.substituted_activations import first_copy_only, substituted

from ..cams import Densely, Derivation, Net, Remembering, Reshaping, batch, bilinear, made


@pytest.fixture
def net():
    return made(Net())


@pytest.fixture
def images():
    return batch()


def raw(model, layer, images, target, method, progress=None, **options):
    return CAM(model, layer, method=method, **options)(images, target, progress=progress).raw_maps


@torch.no_grad()
def test_scorecam_is_its_papers_algorithm(net, images):
    found = raw(net, "act2", images, [1, 3], "scorecam")
    for b, target in enumerate([1, 3]):
        activations = net.act2(net.second(net.act(net.first(images[b : b + 1]))))[0]
        assert not activations[2].any(), "a dead channel has to be among them"
        scores = []
        for channel in activations.tolist():
            mask = bilinear(channel, 8, 6)
            spread = mask.max() - mask.min()
            mask = (mask - mask.min()) / spread if spread else 0 * mask
            masked = images[b : b + 1] * torch.tensor(mask, dtype=torch.float32)
            scores.append(float(net(masked)[0, target]))
        exponentials = [math.exp(score) for score in scores]
        weights = [value / sum(exponentials) for value in exponentials]
        np.testing.assert_allclose(found[b], Derivation(activations, activations).weigh(weights), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [Net, Densely, Reshaping, Remembering])
@torch.no_grad()
def test_ablationcam_is_its_papers_equation(make, images):
    net = made(make())
    if make is Densely:
        net.forward_from = lambda image, activation: net.tail(
            torch.cat([net.act(net.first(image))[..., ::2, ::2], activation], dim=1)
        )
    else:
        net.forward_from = lambda image, activation: net.tail(activation)
    found = raw(net, "act2", images, [1, 3], "ablationcam")
    for b, target in enumerate([1, 3]):
        image = images[b : b + 1]
        activations = net.act2(net.second(net.act(net.first(image))))
        whole = float(net(image)[0, target])
        weights = []
        for k in range(8):
            ablated = activations.clone()
            ablated[0, k] = 0
            weights.append((whole - float(net.forward_from(image, ablated)[0, target])) / whole)
        derived = Derivation(activations[0], activations[0]).weigh(weights)
        np.testing.assert_allclose(found[b], derived, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_reciprocam_is_its_papers_equation_and_runs_the_head_alone_for_each_position(net, images):
    seen = []
    net.act2.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    for memory in (10**6, 1):
        found = raw(net, "act2", images, [[1, 3], [3, 0]], "reciprocam", memory=memory)
        for b, classes in enumerate([[1, 3], [3, 0]]):
            activation = net.act2(net.second(net.act(net.first(images[b : b + 1]))))
            for t, target in enumerate(classes):
                scores = np.zeros((4, 3))
                for i in range(4):
                    for j in range(3):
                        alone = torch.zeros_like(activation)
                        alone[..., i, j] = activation[..., i, j]
                        exponentials = [math.exp(logit) for logit in net.tail(alone)[0].tolist()]
                        scores[i, j] = exponentials[target] / sum(exponentials)
                np.testing.assert_allclose(found[b, t], scores - scores.min(), rtol=1e-3, atol=1e-6)
    assert max(seen) <= len(images), "what comes before the layer works on an image once for all positions"


def test_reciprocam_of_a_single_class_is_refused_and_its_callable_taken(images):
    net = made(Net(classes=1))
    with pytest.raises(ValueError, match=r"target: .*single class .* is 1 for any logit; give a callable"):
        raw(net, "act2", images, 0, "reciprocam")
    assert (raw(net, "act2", images, lambda logits: logits[0].sigmoid(), "reciprocam").amax(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("name", ["act2", "act2.input"])
@torch.no_grad()
def test_an_activation_is_replaced_for_the_thread_that_asked_alone(net, images, name):
    (layer,) = capture(net, layers.find(net, name), images, targets.read(0, 2)).layers
    copies, features = images[:1].expand(2, -1, -1, -1), torch.ones(2, 8, 4, 3)
    expected = net(copies)
    with substituted(layer, features), first_copy_only(net, copies), ThreadPoolExecutor(1) as pool:
        torch.testing.assert_close(net(copies), net.tail(features))
        sizes = []
        net.first.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
        assert torch.equal(pool.submit(torch.no_grad()(net), copies).result(), expected)
    assert sizes == [2]
    assert torch.equal(net(copies), expected), "and in its own no longer than it asked"
    assert sizes == [2, 2]


def test_ablationcam_of_a_negative_score_is_not_inside_out(net, images):
    """Shifting the score down by a constant takes no evidence away, so it may scale the map but not turn it over."""
    found = CAM(net, "act2", method="ablationcam")(images, lambda logits: logits[1]).maps
    shifted = CAM(net, "act2", method="ablationcam")(images, lambda logits: logits[1] - 100).maps
    assert (found.amax(dim=(1, 2)) == 1).all()
    torch.testing.assert_close(shifted, found, rtol=0, atol=1e-3)


def test_smooth_gradcam_plusplus_is_gradcam_plusplus_of_mean_derivatives(net, images, monkeypatch):
    monkeypatch.setattr(forwards, "SAMPLES", 3)
    found = raw(net, "act2", images, [1, 3], "smoothgradcam++", noise=0.2, seed=5)
    generator = torch.Generator().manual_seed(5)
    gradients = torch.zeros(3, 2, 8, 4, 3)
    for sample in range(3):
        noise = torch.randn(images.shape, generator=generator)
        for b, target in enumerate([1, 3]):
            noisy = images[b] + 0.2 * (images[b].max() - images[b].min()) * noise[b]
            features = net.act2(net.second(net.act(net.first(noisy[None])))).detach().requires_grad_()
            net.tail(features)[0, target].backward()
            gradients[sample, b] = features.grad[0]
    gradients = gradients.double()
    for b in range(2):
        powers = [(gradients[:, b] ** p).mean(dim=0).tolist() for p in (1, 2, 3)]
        derived = Derivation(features_of(net, images)[b].double(), gradients[0, b]).plusplus(*powers)
        np.testing.assert_allclose(found[b], derived, rtol=1e-4, atol=1e-6)


def test_smooth_gradcam_plusplus_without_noise_is_gradcam_plusplus(net, images):
    smooth = raw(net, "act2", images, [1, 3], "smoothgradcam++", noise=0.0)
    torch.testing.assert_close(smooth, raw(net, "act2", images, [1, 3], "gradcam++"))


@torch.no_grad()
def features_of(net, images):
    return net.act2(net.second(net.act(net.first(images))))


def test_finercam_is_gradcam_of_a_logit_less_those_of_the_three_nearest(images):
    net = made(Net(classes=6))
    found = raw(net, "act2", images, [1, 3], "finercam")
    for b, c in enumerate([1, 3]):
        features = features_of(net, images)[b : b + 1].double().requires_grad_()
        y = copy.deepcopy(net).double().tail(features)[0]
        others = sorted((d for d in range(6) if d != c), key=lambda d: (y[d] - y[c]).abs().item())[:3]
        p = [y[d].exp() / y.exp().sum() for d in others]
        (sum(q * (y[c] - y[d]) for q, d in zip(p, others)) / sum(p)).backward()
        derived = Derivation(features.detach()[0], features.grad[0]).gradcam()
        np.testing.assert_allclose(found[b], derived, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, raw(net, "act2", images, [1, 3], "gradcam"), rtol=0.01)


def test_finercam_of_few_classes_compares_with_all_others(images):
    pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    expected = raw(pair, "0", images, lambda logits: logits[1] - logits[0], "gradcam")
    torch.testing.assert_close(raw(pair, "0", images, 1, "finercam"), expected)
    single = nn.Sequential(*pair[:4], nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"target: Finer-CAM compares a class .* this model has a single class"):
        raw(single, "0", images, 0, "finercam")


def test_shapleycam_is_its_papers_equation(net, images):
    """First and second derivatives of y_c + ln p_c, with the whole Hessian written out."""
    found = raw(net, "act2", images, [1, 3], "shapleycam")
    tail = copy.deepcopy(net).double().tail
    for b, c in enumerate([1, 3]):
        features = features_of(net, images)[b].double()

        def utility(flat, c=c, shape=features.shape):
            y = tail(flat.reshape(1, *shape))[0]
            return y[c] + (y[c].exp() / y.exp().sum()).log()

        flat = features.flatten()
        first = torch.autograd.functional.jacobian(utility, flat)
        second = torch.autograd.functional.hessian(utility, flat)
        assert second.abs().max() > 1e-4, "otherwise this is Grad-CAM"
        corrected = (first - second @ flat / 2).reshape(features.shape)
        derived = Derivation(features, corrected).gradcam()
        np.testing.assert_allclose(found[b], derived, rtol=1e-4, atol=1e-6)


def test_shapleycam_of_a_linear_score_is_gradcam(images):
    linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    for head in (nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)):
        model = nn.Sequential(*linear, head)
        score = lambda logits: logits[2]  # noqa: E731
        torch.testing.assert_close(
            raw(model, "1", images, score, "shapleycam"), raw(model, "1", images, score, "gradcam")
        )


class Attending(nn.Module):
    """Attention behind the layer, whose fused kernels have no second derivatives."""

    def __init__(self, fused):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.head = nn.Linear(8, 3)
        self.fused = fused

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2).contiguous()
        if self.fused:
            one_head = tokens[:, None]  # of three axes, or with others last, torch has no fused kernel
            mixed = functional.scaled_dot_product_attention(one_head, one_head, one_head)[:, 0]
        else:
            mixed = (tokens @ tokens.transpose(1, 2) / math.sqrt(8)).softmax(dim=-1) @ tokens
        return self.head(mixed.mean(dim=1))


def test_shapleycam_passes_attention(images):
    fused, plain = Attending(True), Attending(False)
    plain.load_state_dict(fused.state_dict())
    expected = raw(plain, "stem", images, 1, "shapleycam")
    torch.testing.assert_close(raw(fused, "stem", images, 1, "shapleycam"), expected, rtol=1e-4, atol=1e-5)


def test_shapleycams_that_overlap_leave_torchs_choice_of_attention_as_it_was(images):
    outer, inner = Attending(True).eval(), Attending(True).eval()
    outer_layer, inner_layer = (laid_out(net, images, [layers.find(net, "stem")])[0] for net in (outer, inner))
    began, ended = threading.Event(), threading.Event()

    def wait(module, args, output):
        began.set()
        assert ended.wait(30)

    def start(module, args, output):
        thread.start()
        assert began.wait(30)

    inner.head.register_forward_hook(wait)
    thread = threading.Thread(target=raw, args=(inner, inner_layer, images, 1, "shapleycam"))
    handle = outer.stem.register_forward_hook(start)
    raw(outer, outer_layer, images, 1, "shapleycam")  # ends while the other, which began later, is under way
    handle.remove()
    ended.set()
    thread.join()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_shapleycam_names_what_has_no_second_derivatives(net, images):
    net.hidden.register_forward_hook(lambda module, args, output: torch.cdist(output, torch.eye(8), p=3))
    with pytest.raises(RuntimeError, match=r"method: it needs second derivatives, and an operator .*_cdist_backward"):
        raw(net, "act2", images, 0, "shapleycam")


def test_randomcam_weighs_channels_by_its_seed_alone(net, images):
    found = raw(net, "act2", images, [[0, 1], [2, 3]], "randomcam", seed=4)
    weights = 2 * torch.rand(8, generator=torch.Generator().manual_seed(4)) - 1
    expected = (weights[:, None, None] * features_of(net, images)).sum(dim=1).relu()
    torch.testing.assert_close(found, expected[:, None].expand(-1, 2, -1, -1))
    torch.testing.assert_close(raw(net, "act2", images[1:], 0, "randomcam", seed=4)[0], found[1, 0])
    assert not torch.equal(raw(net, "act2", images, 0, "randomcam", seed=5), found[:, 0])


@pytest.mark.parametrize("name", ["scorecam", "ablationcam"])
@pytest.mark.parametrize("make", [Net, Densely])
def test_memory_changes_the_chunks_and_not_the_map(name, make, images):
    net = made(make())
    batches, steps = [], []
    net.hidden.register_forward_hook(lambda module, args, output: batches.append(len(output)))
    expected = raw(net, "act2", images, [1, 3], name)
    assert max(batches) > 2
    batches.clear()
    found = raw(net, "act2", images, [1, 3], name, memory=1, progress=lambda *step: steps.append(step))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert max(batches) == 2, "no more than the images themselves and the trial"
    total = steps[0][1]
    assert steps == [(n, total) for n in range(1, total + 1)]
    assert total < 2 * 8, "dead channels need no forward"


@pytest.mark.parametrize("make", [Net, Reshaping])
def test_ablationcam_runs_the_layers_before_on_one_image_only(make, images):
    net, batches = made(make()), []
    (layer,) = laid_out(net, images, [layers.find(net, "act2")])
    net.first.register_forward_hook(lambda module, args, output: batches.append(len(output)))
    raw(net, layer, images, [1, 3], "ablationcam")
    assert batches == [2, 1, 1, 1], "the capture, the trial, and each image once"


@pytest.mark.parametrize("name", ["ablationcam", "reciprocam"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_model_that_mixes_the_images_of_a_batch_has_no_copies_of_one_image(name, count, images):
    net = made(Net())
    net.register_forward_hook(lambda module, args, output: output - output.mean(dim=0) / 2)
    with pytest.raises(ValueError, match=r"model: expected .* the same in any batch.* of image 0"):
        raw(net, "act2", images[:count], 0, name)


def test_smooth_gradcam_plusplus_reports_its_samples(net, images):
    steps = []
    raw(net, "act2", images, None, "smoothgradcam++", progress=lambda *step: steps.append(step))
    assert steps == [(n, 8) for n in range(1, 9)]
