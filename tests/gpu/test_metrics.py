"""Metrics on a GPU: their figures are on it, and the CPU's."""

import pytest
import torch

from cfcam_gpu import CAM, CFCAM, metrics

from ..small import Network, draw
from .beside import close, double

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]

MASKS = torch.zeros(3, 12, 10, dtype=torch.bool)
MASKS[:, 2:9, 1:6] = True


def explainer(model):
    """A map (N, H, W) of images and their classes, as metrics ask for it."""
    explain = CAM(model, "late", method="layercam")
    return lambda images, classes: explain(images, classes).maps


def scored(name, model, images, maps):
    """A metric's figures by name, all tensors."""
    explain, classes = explainer(model), torch.tensor([4, 1, 0], device=images.device)
    masks = MASKS.to(images.device)
    on_model = {"model": model, "images": images, "maps": maps}
    found = {
        "confidence": lambda: metrics.confidence_change(**on_model, target=[4, None, 0]),
        "insertion": lambda: metrics.insertion(**on_model, step=20),
        "deletion": lambda: metrics.deletion(**on_model, step=20, target=classes, memory=1),
        "adcc": lambda: metrics.adcc(model, explain, images, maps, classes),
        "road": lambda: metrics.road(**on_model, noise=0.0),
        "patches": lambda: metrics.single_deletion(**on_model, patches=2),
        "completeness": lambda: metrics.completeness_gap(model, "late", images),
        "classes": lambda: metrics.class_sensitivity(model, explain, images),
        "energy": lambda: metrics.energy_pointing_game(maps, masks),
        "pointing": lambda: metrics.pointing_game(maps, masks),
        "iou": lambda: metrics.best_iou(maps, masks),
    }[name]()
    if isinstance(found, torch.Tensor):
        return {name: found}
    fields = getattr(found, "_asdict", lambda: vars(found))()
    return {key: value for key, value in fields.items() if isinstance(value, torch.Tensor)}


THE_SAME = ("confidence", "insertion", "deletion", "adcc", "road", "patches", "completeness", "classes", "energy")


@pytest.mark.parametrize("name", [*THE_SAME, "pointing", "iou"])
def test_figures_are_the_cpus(device, name):
    model, images = double(Network()), draw(0).double()
    maps = CAM(model, "late", method="layercam")(images, [4, 1, 0]).maps
    expected = scored(name, model, images, maps)
    found = scored(name, model.to(device), images.to(device), maps.to(device))
    assert expected
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        close(found[key], value, device)


def test_what_draws_is_the_same_every_time_and_on_the_device(device):
    """Its random numbers are the device's own, so they are not the CPU's."""
    model, images, classes = double(Network()).to(device), draw(0).double().to(device), torch.tensor([4, 1, 0])
    classes = classes.to(device)
    maps = CFCAM(model, "late")(images, classes).maps
    draws = {
        "road": lambda: metrics.road(model, images, maps).score,
        "sensitivity": lambda: metrics.max_sensitivity(explainer(model), images, classes, samples=3),
        "randomisation": lambda: metrics.cascading_randomisation(model, explainer, images, classes).correlation,
    }
    for name, work in draws.items():
        first = work()
        assert first.device == device, name
        assert bool(first.isfinite().all()), name
        assert torch.equal(work(), first), name


def test_means_and_mosaics(device):
    values = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert metrics.mean_interval(values.to(device)) == metrics.mean_interval(values)
    assert metrics.paired_difference(values.to(device), values.roll(1).to(device)) == metrics.paired_difference(
        values, values.roll(1)
    )
    images = draw(0, batch=8).unflatten(0, (2, 4))
    tiled, theirs = metrics.mosaic(images.to(device), 2), metrics.mosaic(images, 2)
    close(tiled, theirs, device)
    maps = theirs[:, :1].abs().clamp(max=1).expand(-1, 4, -1, -1)
    close(metrics.grid_pointing_game(maps.to(device), 2), metrics.grid_pointing_game(maps, 2), device)
