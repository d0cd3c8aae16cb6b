"""The CAMs of activations and gradients: against their papers' equations in plain loops, and what a peer recorded."""

import numpy as np
import pytest
import torch

from cfcam_gpu.methods import METHODS, class_scores, gradient

from ..cams import Derivation

BY_GRADIENT = [name for name, method in METHODS.items() if method.from_gradients]

DERIVED = {
    "gradcam": Derivation.gradcam,
    "gradcam++": Derivation.gradcam_plusplus,
    "hirescam": Derivation.hirescam,
    "xgradcam": Derivation.xgradcam,
    "layercam": Derivation.layercam,
    "eigencam": Derivation.eigencam,
    "eigengradcam": Derivation.eigengradcam,
    "finercam": Derivation.gradcam,  # of another score
}


@pytest.fixture
def taken():
    """Activations (2, 5, 3, 4) with a dead channel, gradients (2, 3, 5, 3, 4)."""
    generator = torch.Generator().manual_seed(3)
    activations = torch.randn(2, 5, 3, 4, generator=generator).relu()
    activations[0, 2] = 0
    return activations, torch.randn(2, 3, 5, 3, 4, generator=generator)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradient_methods_are_their_papers_equations(name, taken):
    activations, gradients = taken
    found = METHODS[name].from_gradients(activations, gradients)
    assert found.shape == (2, 3, 3, 4)
    assert found.dtype == torch.float32
    for b in range(2):
        for t in range(3):
            derived = DERIVED[name](Derivation(activations[b].double(), gradients[b, t].double()))
            np.testing.assert_allclose(found[b, t], derived, rtol=1e-4, atol=1e-5)


#: What grad-cam 1.5.7 gave, before it normalises, for the activations and gradients of the test below.
RECORDED = {
    "gradcam": [[0.164847, 0.617775, 0.832418], [0.281739, 0.527969, 0.852265]],
    "gradcam++": [[0.369671, 1.026010, 1.478382], [0.571536, 0.860777, 1.501696]],
    "hirescam": [[0.056139, 0.565926, 0.727529], [0.643025, 0.847752, 0.508355]],
    "xgradcam": [[0.269894, 0.541094, 0.854602], [0.382393, 0.441386, 0.859357]],
    "layercam": [[0.171891, 0.857556, 1.333847], [0.897686, 0.898514, 1.288825]],
    "eigencam": [[0.0, 0.117970, 0.539282], [0.0, 0.0, 0.573740]],
    "eigengradcam": [[0.436904, 0.0, 0.0], [0.851406, 0.593723, 0.0]],
}


@pytest.mark.parametrize("name", RECORDED)
def test_gradient_methods_are_what_pytorch_grad_cam_recorded(name):
    count = torch.arange(24.0)
    activations = count.sin().abs().reshape(1, 4, 2, 3)
    activations[0, 3] = 0
    gradients = ((1.7 * count).cos() + 0.3).reshape(1, 1, 4, 2, 3)
    found = METHODS[name].from_gradients(activations, gradients)
    np.testing.assert_allclose(found[0, 0], RECORDED[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradient_methods_sum_in_float32(name, taken):
    activations, gradients = (100 * part.half() for part in taken)
    run = METHODS[name].from_gradients
    expected = run(activations.float(), gradients.float())
    found = run(activations, gradients)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(activations.float(), gradients.float()), expected)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradient_methods_bear_dead_layers(name):
    found = METHODS[name].from_gradients(torch.zeros(1, 3, 2, 2), torch.ones(1, 2, 3, 2, 2))
    assert torch.equal(found, torch.zeros(1, 2, 2, 2))


def test_gradcam_plusplus_of_small_gradients_is_the_limit_of_its_equation():
    # alpha = G^2 / (2 G^2 + S G^3) tends to 1/2, which an epsilon of 1e-6 below the line would make 1/3 at G = 1e-3.
    gradients = torch.full((1, 1, 1, 2, 2), 1e-12)
    found = gradient.gradcam_plusplus(torch.ones(1, 1, 2, 2), gradients)
    torch.testing.assert_close(found, torch.full((1, 1, 2, 2), 4 * 0.5e-12))


def test_gradcam_plusplus_has_no_weight_where_its_denominator_is_zero():
    # 2 + S G = 0 at G = -1, where ReLU(G) is 0, too; a smoothed ratio can be -1 beside a gradient of 3.
    activations, gradients = torch.ones(1, 2, 1, 2), torch.tensor([[[[[-1.0, 1.0]], [[1.0, 1.0]]]]])
    torch.testing.assert_close(gradient.gradcam_plusplus(activations, gradients), torch.full((1, 1, 1, 2), 0.75))
    weights = gradient.plusplus_weights(activations, torch.full((1, 1, 2, 1, 2), 3.0), gradients)
    torch.testing.assert_close(weights, torch.tensor([[[0.75, 1.5]]]))


def test_eigencam_goes_along_with_the_norm_of_activations_that_are_negative():
    activations = torch.tensor([-5.0, -1.0, 0.0]).expand(1, 2, 1, 3)
    found = METHODS["eigencam"].from_gradients(activations, torch.zeros(1, 1, 2, 1, 3))
    # Their mean is -2, and the first component (1, 1) / sqrt(2): the norm is largest where the sum is smallest.
    torch.testing.assert_close(found, torch.tensor([[[[3.0 * 2**0.5, 0, 0]]]]))


def test_finercam_compares_with_the_nearest_logits_on_either_side():
    logits = torch.tensor([[-9.0, 2.0, 0.0, 9.0, -1.0, 1.0]])
    for c, others in ((2, [4, 5, 1]), (3, [1, 5, 2])):
        p = logits[0, others].exp()
        expected = logits[0, c] - (p * logits[0, others]).sum() / p.sum()
        torch.testing.assert_close(class_scores.finer(logits, torch.tensor([c]))[0], expected)


def test_finercam_of_classes_that_are_masked_out():
    logits = torch.tensor([[-torch.inf, 2.0, 0.0, -torch.inf, -1.0]], requires_grad=True)
    found = class_scores.finer(logits, torch.tensor([2]))
    among = torch.tensor([[2.0, 0.0, -1.0]])
    torch.testing.assert_close(found, class_scores.finer(among, torch.tensor([1])))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert bool(gradient.isfinite().all())
    assert gradient[0, [0, 3]].tolist() == [0, 0]


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.parametrize("size", [(12,), (3, 2, 2)], ids=["signal", "volume"])
def test_gradient_methods_of_signals_and_volumes_are_those_of_the_same_positions_in_a_plane(name, size, taken):
    activations, gradients = taken
    run = METHODS[name].from_gradients
    found = run(activations.reshape(2, 5, *size), gradients.reshape(2, 3, 5, *size))
    assert found.shape == (2, 3, *size)
    torch.testing.assert_close(found.reshape(2, 3, 3, 4), run(activations, gradients))
