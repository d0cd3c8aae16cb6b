"""Metrics of volumes and signals: in plain loops over voxels and samples, and refused where they are an image's."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from cfcam_gpu import metrics
from cfcam_gpu.metrics.faithfulness import gaussian_blur

#: (C, *spatial) of a signal and of a volume.
SHAPES = [(2, 23), (1, 4, 3, 5)]


class Sum(nn.Module):
    """Class 0 has the probability sigmoid(mean of what it is given)."""

    def forward(self, images):
        total = images.flatten(1).mean(dim=1)
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@pytest.fixture(params=SHAPES, ids=["signals", "volumes"])
def images(request):
    return 3 * torch.randn(3, *request.param, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps(images):
    return torch.rand(3, *images.shape[2:], generator=torch.Generator().manual_seed(2))


@pytest.fixture
def masks(maps):
    return torch.rand(maps.shape, generator=torch.Generator().manual_seed(3)) < 0.3


def places(maps):
    return list(itertools.product(*(range(n) for n in maps.shape[1:])))


def test_localisation_in_plain_loops(maps, masks):
    maps[0, (0,) * (maps.ndim - 1)] = maps[0].max()  # the maximum twice
    dims = maps.ndim - 1
    found = [
        metric(maps, masks, spatial_dims=dims)
        for metric in (metrics.energy_pointing_game, metrics.pointing_game, metrics.best_iou)
    ]
    for b in range(3):
        value = {at: float(maps[(b, *at)]) for at in places(maps)}
        inside = {at for at in value if masks[(b, *at)]}
        energy = sum(value[at] for at in inside) / sum(value.values())
        top = {at for at in value if value[at] == max(value.values())}
        iou = 0.0
        for threshold in value.values():
            chosen = {at for at in value if value[at] >= threshold}
            iou = max(iou, len(chosen & inside) / len(chosen | inside))
        np.testing.assert_allclose([one[b] for one in found], [energy, len(top & inside) / len(top), iou], rtol=1e-6)


def test_maps_of_a_volume_are_not_taken_for_those_of_several_targets(maps, masks):
    volumes = maps.ndim == 4
    wanted = r"maps: expected shape \(B, H, W\) with spatial_dims=2; got .*spatial_dims=3.*maps.flatten\(0, 1\)"
    for metric in (metrics.energy_pointing_game, metrics.pointing_game, metrics.best_iou):
        with pytest.raises(ValueError, match=wanted):
            metric(maps, masks)
        with pytest.raises(ValueError, match=r"expected shape .* with spatial_dims="):
            metric(maps, masks, spatial_dims=1 if volumes else 3)
        with pytest.raises(ValueError, match="spatial_dims: expected 1, 2 or 3"):
            metric(maps, masks, spatial_dims=4)


def test_confidence_change_in_plain_loops(images, maps):
    drop, increase, gain = metrics.confidence_change(Sum(), images, maps, 0)
    for b in range(3):
        left = [float(c[at] * maps[(b, *at)]) for c in images[b] for at in places(maps)]
        before, after = sigmoid(float(images[b].mean())), sigmoid(sum(left) / len(left))
        np.testing.assert_allclose(drop[b], 100 * max(0, before - after) / before, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(gain[b], 100 * max(0, after - before) / (1 - before), rtol=1e-4, atol=1e-6)
        assert increase[b] == 100 * (after > before)


def test_insertion_and_deletion_in_plain_loops(images, maps):
    step = 7
    inserted = metrics.insertion(Sum(), images, maps, 0, baseline="zero", step=step)
    deleted = metrics.deletion(Sum(), images, maps, 0, step=step)
    for b in range(3):
        order = sorted(places(maps), key=lambda at: -float(maps[(b, *at)]))
        counts = [*range(0, len(order), step), len(order)]
        for found, insert in ((inserted, True), (deleted, False)):
            scores = []
            for count in counts:
                kept = set(order[:count] if insert else order[count:])
                left = [float(c[at]) if at in kept else 0.0 for c in images[b] for at in order]
                scores.append(sigmoid(sum(left) / len(left)))
            np.testing.assert_allclose(found.scores[b], scores, rtol=1e-5)
            area = torch.trapezoid(torch.tensor(scores), torch.tensor(counts) / len(order))
            np.testing.assert_allclose(found.auc[b], area, rtol=1e-5)


def test_the_blur_is_scipys_along_every_axis(images):
    long = images.repeat_interleave(4, dim=2)
    for axis in range(3, images.ndim):
        long = long.repeat_interleave(4, dim=axis)
    sigmas = (0, 0, *(5 for _ in images.shape[2:]))
    expected = ndimage.gaussian_filter(long.double().numpy(), sigmas, mode="mirror", truncate=1.0)
    np.testing.assert_allclose(gaussian_blur(long), expected, atol=1e-5)


def test_a_blur_wider_than_a_side_names_the_way_out():
    thin = torch.ones(1, 1, 4, 9, 9)
    with pytest.raises(ValueError, match=r"images: a blur of 11 pixels needs at least 6 a side; got \(4, 9, 9\). Take"):
        metrics.insertion(Sum(), thin, thin[:, 0].clone(), 0, step=9)


def brightness(images, classes):
    return images[:, 0].sigmoid()


def test_adcc_and_max_sensitivity_in_plain_loops(images, maps):
    classes = torch.zeros(3, dtype=torch.int64)
    found = metrics.adcc(Sum(), brightness, images, maps, classes)
    worst = metrics.max_sensitivity(brightness, images, classes, radius=0.1, samples=2, seed=5)
    generator = torch.Generator().manual_seed(5)
    moves = [2 * torch.rand(images.shape, generator=generator) - 1 for _ in range(2)]
    for b in range(3):
        again = (images[b, 0] * maps[b]).sigmoid().flatten().numpy()
        r = np.corrcoef(maps[b].flatten().numpy(), again)[0, 1]
        np.testing.assert_allclose(found.coherency[b], (r + 1) / 2, atol=1e-5)
        np.testing.assert_allclose(found.complexity[b], np.mean(maps[b].flatten().numpy()), rtol=1e-5)
        here = images[b, 0].sigmoid().flatten().numpy()
        reach = 0.1 * float(images[b].max() - images[b].min())
        changes = [(images[b, 0] + reach * move[b, 0]).sigmoid().flatten().numpy() - here for move in moves]
        expected = max(np.linalg.norm(change) for change in changes) / np.linalg.norm(here)
        np.testing.assert_allclose(worst[b], expected, rtol=1e-4)


def test_randomisation_takes_maps_of_any_axes(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2))

    def make(model):
        weight = model[1].weight[0].detach().reshape(images.shape[1:])
        return lambda given, classes: (given * weight).sum(dim=1).sigmoid()

    found = metrics.cascading_randomisation(net, make, images, torch.zeros(3, dtype=torch.int64))
    assert found.correlation.shape == (1, 3)
    assert (found.correlation.abs() < 1).all()


def test_metrics_of_images_say_that_they_are(images, maps):
    classes = torch.zeros(3, dtype=torch.int64)
    message = "images only"
    with pytest.raises(ValueError, match=f"images: expected {message}.*the eight around it"):
        metrics.road(Sum(), images, maps, 0)
    with pytest.raises(ValueError, match=f"images: expected {message}.*SSIM"):
        metrics.pixel_noise_ssim(brightness, images, classes, std=0.1)
    with pytest.raises(ValueError, match=f"images: expected {message}.*SSIM"):
        metrics.classifier_randomisation_ssim(Sum(), lambda model: brightness, images, classes)
    with pytest.raises(ValueError, match=f"size: expected .*{message}.*SSIM"):
        metrics.gradient_noise_ssim(None, maps[:, None], maps[:, None, None], tuple(maps.shape[1:]), std=1.0)


def test_an_image_without_a_batch_axis_is_no_batch_of_signals():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"images: expected shape \(B, C, H, W\).*got \(3, 8, 8\)"):
        metrics.confidence_change(net, torch.ones(3, 8, 8), torch.ones(3, 8), 0)


def test_maps_of_several_targets_are_refused(images, maps):
    several = torch.stack([maps, maps], dim=1)
    with pytest.raises(ValueError, match=r"maps: expected shape .*one at a time: maps\[:, t\]"):
        metrics.insertion(Sum(), images, several, 0, step=5)
