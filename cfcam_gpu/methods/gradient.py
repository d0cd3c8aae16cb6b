"""CAMs that need nothing but activations and gradients.

Each takes ``activations`` A, (B, C, ...), and ``gradients`` G, (B, T, C, ...), of T scores with respect to them, in any
floating dtype, over any number of spatial axes and on any device, and returns raw maps (B, T, ...) float32 on that
device: >= 0, not normalised. S_k is the sum of A_k over all positions. Sums are float32, also under autocast: they are
written as products and ``sum``, since it would run a matrix product in half precision. Nothing is read by the host, so
no `torch.where` with a number, which it would have to send; a decomposition's status is all that it waits for.
"""

from __future__ import annotations

import torch


def gradcam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Grad-CAM: ReLU(sum_k w_k A_k), where w_k is the spatial mean of G_k.

    Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv:1610.02391), equations 1 and 2.
    """
    return weighted(activations, gradients.float().flatten(3).mean(dim=-1))


def gradcam_plusplus(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Grad-CAM++: ReLU(sum_k w_k A_k), where w_k = sum_ij alpha_kij ReLU(G_kij).

    Chattopadhay et al., "Grad-CAM++", WACV 2018 (arXiv:1710.11063), equation 19 with the exponential of the score as
    the function that is differentiated: alpha = G^2 / (2 G^2 + S G^3).
    """
    gradients = gradients.float()
    return weighted(activations, plusplus_weights(activations, gradients, gradients))


def plusplus_weights(activations: torch.Tensor, first: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Channel weights of Grad-CAM++ and its smoothed form: sum_ij alpha_ij ReLU(D1_ij).

    alpha = D2 / (2 D2 + S D3) is computed as 1 / (2 + S D3 / D2): squares of gradients of 1e-3 would drown in any
    epsilon beside them. Where the denominator is 0, alpha is 0.

    Parameters
    ----------
    activations : (B, C, ...) floating tensor
    first : (B, T, C, ...) float32 tensor
        First derivatives D1 of the scores.
    ratio : (B, T, C, ...) float32 tensor
        D3 / D2, third over second derivatives: for the exponential of one score, its gradient.

    Returns
    -------
    (B, T, C) float32 tensor
    """
    sums = activations.float().flatten(2).sum(dim=-1)[:, None, :, None]
    denominator = 2 + sums * ratio.flatten(3)
    alpha = (1 / denominator).masked_fill(denominator == 0, 0.0)
    return (alpha * first.flatten(3).relu()).sum(dim=-1)


def hirescam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """HiResCAM: ReLU(sum_k G_k * A_k), position by position.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of CNNs", 2020 (arXiv:2011.08891).
    """
    return (gradients.float() * activations.float()[:, None]).sum(dim=2).relu()


def xgradcam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """XGrad-CAM: ReLU(sum_k w_k A_k), where w_k = sum_ij G_kij A_kij / S_k; 0 for a channel with S_k = 0.

    Fu et al., "Axiom-based Grad-CAM", BMVC 2020 (arXiv:2008.02312).
    """
    sums = activations.float().flatten(2).sum(dim=-1)[:, None]
    products = (gradients.float() * activations.float()[:, None]).flatten(3).sum(dim=-1)
    return weighted(activations, (products / sums).masked_fill(sums == 0, 0.0))


def layercam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """LayerCAM: ReLU(sum_k ReLU(G_k) * A_k), position by position.

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021.
    """
    return hirescam(activations, gradients.relu())


def eigencam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Eigen-CAM: ReLU of the activations' projection onto their first principal component; the same for each target.

    Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020 (arXiv:2008.00299).
    The channels are centred over the positions first, which is what makes it a principal component. A component has
    no sign of its own: it gets the one that makes the map go along with the norm of the activations.
    """
    activations = activations.float()[:, None]
    norms = torch.linalg.vector_norm(activations, dim=2)
    return _first_component(activations, norms).expand(-1, gradients.shape[1], *norms.shape[2:])


def eigengradcam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Eigen-Grad-CAM: Eigen-CAM of G_k * A_k, so that it tells targets apart.

    It has no paper: J. Gildenblat's pytorch-grad-cam (2021) defines it. A component has no sign of its own: it gets the
    one that makes the map go along with the evidence sum_k G_k * A_k.
    """
    evidence = gradients.float() * activations.float()[:, None]
    return _first_component(evidence, evidence.sum(dim=2))


def _first_component(channels: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """ReLU of the projection of channels (B, T, C, ...) onto their first principal component, signed as (B, T, ...)."""
    positions = channels.flatten(3).transpose(2, 3)
    positions = positions - positions.mean(dim=2, keepdim=True)
    # The decomposition would fail for all on what is not finite in one; the map of that one is NaN instead.
    lost = ~positions.flatten(2).isfinite().all(dim=-1, keepdim=True)
    left, values, _ = torch.linalg.svd(positions.masked_fill(lost[..., None], 0.0), full_matrices=False)
    projection = (left[..., 0] * values[..., :1]).masked_fill(lost, torch.nan)
    same = (projection * along.flatten(2)).sum(dim=-1, keepdim=True) >= 0
    return torch.where(same, projection, -projection).relu().reshape(along.shape)


def weighted(activations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """ReLU(sum_k w_k A_k): (B, T, ...) float32, from activations (B, C, ...) and float32 weights (B, T, C)."""
    weights = weights.reshape(*weights.shape, *(1 for _ in activations.shape[2:]))
    return (weights * activations.float()[:, None]).sum(dim=2).relu()
