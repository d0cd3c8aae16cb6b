"""ROAD and its imputation: against dense and sparse solutions of the equations, and beside the peers."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import nn

from cfcam_gpu.metrics import road
from cfcam_gpu.metrics.imputation import impute

WEIGHTS = {(i, j): 1 / 6 if 0 in (i, j) else 1 / 12 for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)}


def solved(image, removed):
    """The equations pixel by pixel, solved by a sparse factorisation."""
    height, width = removed.shape
    unknowns = {position: n for n, position in enumerate(zip(*np.nonzero(removed)))}
    matrix = sparse.lil_matrix((len(unknowns), len(unknowns)))
    right = np.zeros((len(unknowns), len(image)))
    for (i, j), n in unknowns.items():
        for (di, dj), weight in WEIGHTS.items():
            y, x = i + di, j + dj
            if not (0 <= y < height and 0 <= x < width):
                continue
            matrix[n, n] += weight
            if (y, x) in unknowns:
                matrix[n, unknowns[y, x]] -= weight
            else:
                right[n] += weight * image[:, y, x]
    values = linalg.spsolve(matrix.tocsc(), right).reshape(len(unknowns), -1)
    filled = image.copy()
    for (i, j), n in unknowns.items():
        filled[:, i, j] = values[n]
    return filled


@pytest.mark.parametrize(
    ("height", "width", "share"),
    [(1, 9, 0.6), (2, 2, 0.5), (3, 5, 0.9), (16, 16, 0.5), (17, 33, 0.1), (17, 33, 0.98), (40, 31, 0.8)],
)
def test_imputation_solves_its_equations(height, width, share):
    generator = torch.Generator().manual_seed(height)
    images = torch.randn(3, 3, height, width, generator=generator)
    removed = torch.rand(3, height, width, generator=generator) < share
    removed[1] = torch.arange(width) < share * width  # one large hole
    removed[:, height // 2, width // 2] = False
    removed[2] = False  # nothing to do
    found = impute(images, removed)
    for b in range(2):
        expected = solved(images[b].double().numpy(), removed[b].numpy())
        np.testing.assert_allclose(found[b], expected, atol=5e-4)
    assert torch.equal(found[2], images[2])
    kept = ~removed[:, None].expand_as(images)
    assert torch.equal(found[kept], images[kept])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 255.0])
def test_imputation_of_a_photographs_size_at_any_scale(scale):
    height = width = 224
    ramp = torch.linspace(-1, 1, height * width).reshape(1, 1, height, width) * scale
    # A frame of known pixels around one hole: the ramp is linear, so each pixel is the mean of its neighbours.
    removed = torch.zeros(1, height, width, dtype=torch.bool)
    removed[:, 1:-1, 1:-1] = True
    torch.testing.assert_close(impute(ramp, removed), ramp, rtol=0, atol=2e-3 * scale)


def test_imputation_refuses_what_it_cannot_solve():
    images = torch.ones(2, 1, 4, 4)
    removed = torch.zeros(2, 4, 4, dtype=torch.bool)
    removed[1] = True
    with pytest.raises(ValueError, match="at least one pixel of each image to be left"):
        impute(images, removed)
    removed[1, 0, 0] = False
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="has not converged within 200 iterations; are they finite"):
        impute(images, removed)


class TopLeft(nn.Module):
    """The probability of class 0 is sigmoid of the sum over the first five rows."""

    def forward(self, images):
        total = images[:, :, :5].sum(dim=(1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


@pytest.fixture
def images():
    return 0.1 * torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps():
    """All values distinct."""
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2)).reshape(2, 10, 10)
    return order / 199


def test_road_in_plain_loops(images, maps):
    found = road(TopLeft(), images, maps, 0, percentiles=(20, 50), noise=0.0)
    for b in range(2):
        ordered = maps[b].flatten().sort().values
        for p, percent in enumerate((20, 50)):
            least = (maps[b] < ordered[percent]).numpy()
            most = (maps[b] >= ordered[100 - percent]).numpy()
            for curve, removed in ((found.lerf, least), (found.morf, most)):
                assert removed.sum() == percent
                total = solved(images[b].double().numpy(), removed)[:, :5].sum()
                np.testing.assert_allclose(curve[b, p], 1 / (1 + np.exp(-total)), atol=1e-4)
    torch.testing.assert_close(found.score, (found.lerf.mean(dim=1) - found.morf.mean(dim=1)) / 2)


def test_road_prefers_the_map_that_shows_what_counts():
    images = torch.zeros(1, 1, 12, 12)
    images[:, :, 1:4, 1:4] = 1.0
    good = torch.linspace(0.4, 0, 144).reshape(1, 12, 12)
    good[:, 1:4, 1:4] = 1.0
    assert road(TopLeft(), images, good, 0).score > 0.1
    assert road(TopLeft(), images, 1 - good, 0).score < -0.1


def test_road_removes_exactly_the_share_also_among_equal_values(images):
    """A map that is zero but for one pixel: LeRF at 10 percent takes 10 of the 99 zeros, not all of them."""
    maps = torch.zeros(2, 10, 10)
    maps[:, 9, 9] = 1.0
    seen = []

    class Seen(TopLeft):
        def forward(self, given):
            changed = (given[:, None] != images[None]).any(dim=2).flatten(2).sum(dim=2).amin(dim=1)
            seen.extend(changed.tolist())
            return super().forward(given)

    road(Seen(), images, maps, 0, percentiles=(10, 70))
    assert seen[-8:] == [10, 70, 10, 70] * 2


def test_road_removes_neither_nothing_nor_everything_of_a_small_image():
    image, maps = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]]), torch.tensor([[[1.0, 0.5], [0.25, 0.0]]])
    found = road(TopLeft(), image, maps, 0, percentiles=(1, 99), noise=0.0)
    # One pixel, or three: then all are the one that is left. At its corner a pixel sees 2, 2 and 1 twelfths.
    first, last = (2 * 2 + 2 * 3 + 1) / 5, (2 * 2 + 2 * 3 + 5) / 5
    torch.testing.assert_close(found.lerf, torch.tensor([[6 + first, 4.0]]).double().sigmoid(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.morf, torch.tensor([[10 + last, 20.0]]).double().sigmoid(), rtol=1e-4, atol=0)


def test_noise_has_its_size_and_its_seed(images, maps):
    taken = []

    class Seen(TopLeft):
        def forward(self, given):
            taken.append(given.clone())
            return super().forward(given)

    road(Seen(), images, maps, 0, percentiles=(90,), noise=0.0)
    road(Seen(), images, maps, 0, percentiles=(90,), noise=0.5)
    clean, noisy = (torch.stack(list(run)) for run in (taken[1:2], taken[3:4]))
    added = (noisy - clean)[clean != noisy]
    assert len(added) == 4 * 90 * 3
    np.testing.assert_allclose(float(added.std()), 0.5, rtol=0.1)
    lerf, morf = (noisy - clean)[0, :2]
    assert not (lerf == morf)[lerf.bool() & morf.bool()].any(), "no two forwards have the same noise"
    first = road(TopLeft(), images, maps, 0, seed=1)
    assert torch.equal(first.score, road(TopLeft(), images, maps, 0, seed=1).score)
    assert not torch.equal(first.score, road(TopLeft(), images, maps, 0, seed=2).score)


def test_memory_changes_the_chunks_and_not_the_numbers(images, maps):
    steps = []
    expected = road(TopLeft(), images, maps, 0)
    found = road(TopLeft(), images, maps, 0, memory=1, progress=lambda *step: steps.append(step))
    for part, other in zip(found, expected):
        torch.testing.assert_close(part, other, rtol=0, atol=1e-5)
    assert steps == [(n, 36) for n in range(1, 37)]
    # An image is there 4 times while it is chosen, and 12 times while it is imputed; the model has its input and two
    # logits, counted twice.
    steps.clear()
    memory = 10 * (4 + 12 + 2) * images[0].nbytes + 10 * 2 * 8
    road(TopLeft(), images, maps, 0, memory=memory, progress=lambda *step: steps.append(step))
    assert [done for done, _ in steps] == [10, 20, 30, 36]


@pytest.mark.parametrize("percentiles", [(), (0, 50), (100,), (float("nan"),), ("a",)])
def test_percentiles_out_of_range_are_refused(images, maps, percentiles):
    with pytest.raises(ValueError, match="percentiles: expected numbers between 0 and 100; got"):
        road(TopLeft(), images, maps, 0, percentiles=percentiles)


@pytest.mark.filterwarnings("ignore")
def test_pytorch_grad_cam_agrees(images, maps, monkeypatch, peer):
    peers = peer("pytorch_grad_cam.metrics.road")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # its noise has no seed
    model, softmax = TopLeft(), [ClassifierOutputSoftmaxTarget(0)] * 2
    found = road(model, images, maps, 0, noise=0.0)
    expected = peers.ROADCombined()(images, maps.numpy(), softmax, model)
    np.testing.assert_allclose(found.score, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_quantus_imputes_the_same(images, maps, peer):
    peers = peer("quantus.functions.perturb_func")
    for b in range(2):
        removed = maps[b] < 0.6
        expected = peers.noisy_linear_imputation(images[b].numpy(), np.flatnonzero(removed), noise=0.0)
        np.testing.assert_allclose(impute(images[b][None], removed[None])[0], expected, atol=1e-4)
