"""SSIM under noise and max-sensitivity: by hand, in plain loops, and beside Quantus."""

import sys

import numpy as np
import pytest
import torch

from cfcam_gpu.methods import METHODS
from cfcam_gpu.metrics import gradient_noise_ssim, max_sensitivity, pixel_noise_ssim, ssim

SIZE = (24, 20)


@pytest.fixture
def maps():
    return torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def captured():
    """Activations (2, 6, 4, 3), gradients (2, 2, 6, 4, 3)."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 6, 4, 3, generator=generator), torch.randn(2, 2, 6, 4, 3, generator=generator)


def ssim_by_hand(first, second):
    """Window by window: 11 x 11 Gaussian weights of sigma 1.5, mirrored at the border, constants 0.01^2 and 0.03^2."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    a, b = (np.pad(part.double().numpy(), 5, mode="reflect") for part in (first, second))
    values = []
    for i in range(first.shape[0]):
        for j in range(first.shape[1]):
            u, v = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mu, nu = (weights * u).sum(), (weights * v).sum()
            variances = (weights * (u - mu) ** 2).sum() + (weights * (v - nu) ** 2).sum()
            covariance = (weights * (u - mu) * (v - nu)).sum()
            luminance = (2 * mu * nu + 1e-4) / (mu**2 + nu**2 + 1e-4)
            values.append(luminance * (2 * covariance + 9e-4) / (variances + 9e-4))
    return np.mean(values)


def test_ssim_by_hand(maps):
    other = (0.7 * maps + 0.3 * maps.flip(2)).clamp(0, 1)
    other[2] = 0.0
    found = ssim(maps, other)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, [ssim_by_hand(a, b) for a, b in zip(maps, other)], rtol=1e-6)
    assert ssim(maps, maps).tolist() == [1, 1, 1]
    assert ssim(maps[:1], other[:1]).shape == (1,)


def test_ssim_of_nearly_flat_maps_is_taken_in_float64(maps):
    first, second = (0.9 + 1e-4 * one for one in (maps[:1], maps[1:2]))
    np.testing.assert_allclose(1 - ssim(first, second), [1 - ssim_by_hand(first[0], second[0])], rtol=1e-4)


def test_ssim_says_how_to_get_torchmetrics(maps, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(RuntimeError, match=r"torchmetrics is not installed; pip install 'cfcam-gpu\[metrics\]'"):
        ssim(maps, maps)


def test_gradient_noise_comes_before_anything_else(captured):
    activations, gradients = captured
    seen = []

    def method(given_activations, given):
        assert given_activations is activations
        seen.append(given)
        return given.mean(dim=2).relu()

    found = gradient_noise_ssim(method, activations, gradients, SIZE, std=0.5, seed=3)
    assert seen[0] is gradients
    drawn = torch.randn(gradients.shape, generator=torch.Generator().manual_seed(3))
    for b in range(2):
        for t in range(2):
            spread = 0.5 * float(np.std(gradients[b, t].numpy()))
            torch.testing.assert_close(seen[1][b, t], gradients[b, t] + spread * drawn[b, t])

    def resized(raw):
        large = torch.nn.functional.interpolate(raw, size=SIZE, mode="bilinear", align_corners=False)
        return large / large.amax(dim=(2, 3), keepdim=True)

    clean, noisy = (resized(given.mean(dim=2).relu()).flatten(0, 1) for given in seen)
    torch.testing.assert_close(found, ssim(clean, noisy).reshape(2, 2))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.from_gradients])
def test_gradient_noise_moves_the_methods_that_look_at_gradients(name, captured):
    run = METHODS[name].from_gradients
    assert torch.equal(gradient_noise_ssim(run, *captured, SIZE, std=0.0), torch.ones(2, 2, dtype=torch.float64))
    little, much = (gradient_noise_ssim(run, *captured, SIZE, std=std).mean() for std in (0.05, 2.0))
    if name == "eigencam":
        assert little == much == 1
    else:
        assert much < little < 1


def test_gradient_noise_has_a_seed_and_reaches_every_layer(captured):
    activations, gradients = captured
    seen = []

    def method(pair, given):
        seen.append(given)
        return (given[0] + given[1]).mean(dim=2).relu()

    pairs = [activations, activations], [gradients, gradients]
    first = gradient_noise_ssim(method, *pairs, SIZE, std=1.0, seed=4)
    assert torch.equal(first, gradient_noise_ssim(method, *pairs, SIZE, std=1.0, seed=4))
    assert not torch.equal(first, gradient_noise_ssim(method, *pairs, SIZE, std=1.0, seed=5))
    added = [noisy - gradients for noisy in seen[1]]
    assert all(part.abs().amin() > 0 for part in added)
    assert not torch.equal(*added)
    gradient_noise_ssim(method, pairs[0], [gradients.half()] * 2, SIZE, std=1.0)
    assert {one.dtype for one in seen[-1]} == {torch.float16}, "as the method gets them without noise"


def test_gradient_noise_on_half_precision(captured):
    activations, gradients = captured
    found = gradient_noise_ssim(METHODS["gradcam"].from_gradients, activations.half(), gradients.half(), SIZE, std=1.0)
    expected = gradient_noise_ssim(METHODS["gradcam"].from_gradients, activations, gradients, SIZE, std=1.0)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)


class Brightness:
    """An explainer whose map is the image's first channel in [0, 1]; remembers what it was given."""

    def __init__(self):
        self.images, self.classes = [], []

    def __call__(self, images, classes):
        self.images.append(images)
        self.classes.append(classes)
        return images[:, 0].sigmoid()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, 16, 12, generator=generator) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)


@pytest.fixture
def classes():
    return torch.tensor([4, 2])


def test_pixel_noise_by_hand(images, classes):
    explainer = Brightness()
    found = pixel_noise_ssim(explainer, images, classes, std=0.1, seed=7)
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(7))
    noisy = torch.stack([x + 0.1 * (x.max() - x.min()) * d for x, d in zip(images, drawn)])
    torch.testing.assert_close(explainer.images[1], noisy)
    torch.testing.assert_close(found, ssim(images[:, 0].sigmoid(), noisy[:, 0].sigmoid()))
    assert all(given is classes for given in explainer.classes)
    assert pixel_noise_ssim(explainer, images, classes, std=0.0).tolist() == [1, 1]


def test_max_sensitivity_in_plain_loops(images, classes):
    steps = []
    found = max_sensitivity(
        Brightness(), images, classes, radius=0.05, samples=4, seed=9, progress=lambda *step: steps.append(step)
    )
    generator = torch.Generator().manual_seed(9)
    worst = [0.0, 0.0]
    for _ in range(4):
        drawn = torch.rand(images.shape, generator=generator)
        for b, image in enumerate(images):
            moved = image + 0.05 * (image.max() - image.min()) * (2 * drawn[b] - 1)
            assert (moved - image).abs().max() <= 0.05 * (image.max() - image.min())
            a, c = image[0].sigmoid().numpy(), moved[0].sigmoid().numpy()
            worst[b] = max(worst[b], float(np.linalg.norm(c - a) / np.linalg.norm(a)))
    np.testing.assert_allclose(found, worst, rtol=1e-5)
    assert steps == [(n, 4) for n in range(1, 5)]


def test_max_sensitivity_of_an_empty_map(images, classes):
    """All zeros that stay so have not moved; if anything appears, no number is large enough."""

    def appears(given, _):
        maps = torch.zeros(2, 16, 12)
        maps[1] = float(not torch.equal(given, images))
        return maps

    assert max_sensitivity(appears, images, classes).tolist() == [0, float("inf")]


def test_bad_input_is_refused(maps, captured, images, classes):
    with pytest.raises(ValueError, match=r"maps: expected shape \(3, 24, 20\); got \(2, 24, 20\)"):
        ssim(maps, maps[:2])
    with pytest.raises(ValueError, match=r"maps: SSIM needs at least 11 pixels a side; got \(24, 10\)"):
        ssim(maps[..., :10], maps[..., :10])
    with pytest.raises(ValueError, match="std: expected a number that is not negative; got -1"):
        gradient_noise_ssim(METHODS["gradcam"].from_gradients, *captured, SIZE, std=-1)
    with pytest.raises(ValueError, match="std: expected a number that is not negative; got nan"):
        pixel_noise_ssim(Brightness(), images, classes, std=float("nan"))
    with pytest.raises(ValueError, match="radius: expected a number that is not negative; got inf"):
        max_sensitivity(Brightness(), images, classes, radius=float("inf"))
    with pytest.raises(ValueError, match="radius: expected a number that is not negative; got None"):
        max_sensitivity(Brightness(), images, classes, radius=None)
    with pytest.raises(ValueError, match="samples: expected a whole number, at least 1; got 0"):
        max_sensitivity(Brightness(), images, classes, samples=0)
    with pytest.raises(ValueError, match=r"maps: expected shape \(2, 16, 12\); got \(2, 3, 16, 12\)"):
        max_sensitivity(lambda given, _: given.sigmoid(), images, classes)


@pytest.mark.filterwarnings("ignore")
def test_quantus_agrees(images, classes, peer):
    peers = peer("quantus")
    found = max_sensitivity(Brightness(), images, classes, radius=0.05, samples=4, seed=9)
    generator = torch.Generator().manual_seed(9)
    reach = 0.05 * np.ptp(images.flatten(1).numpy(), axis=1)[:, None]

    def replay(arr, **_):
        return arr + reach * (2 * torch.rand(images.shape, generator=generator).flatten(1).numpy() - 1)

    metric = peers.MaxSensitivity(
        nr_samples=4, perturb_func=replay, abs=False, normalise=False, disable_warnings=True, return_aggregate=False
    )
    expected = metric(
        model=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 12, 5)),
        x_batch=images.numpy(),
        y_batch=classes.numpy(),
        explain_func=lambda model, inputs, targets, **_: torch.as_tensor(inputs)[:, :1].sigmoid().numpy(),
        device="cpu",
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
