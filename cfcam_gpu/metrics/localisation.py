"""Whether the map lies on the object, measured against masks, or against the cell of a mosaic with its class.

Maps alone do not tell a volume's (B, D, H, W) from those of several targets of an image, (B, T, H, W), which each have
a value of their own: so `spatial_dims` says how many axes behind the first are spatial, 2 where it is not given.
"""

from __future__ import annotations

import torch

from .scoring import MAPS, check_images, check_maps


def energy_pointing_game(maps: torch.Tensor, masks: torch.Tensor, *, spatial_dims: int = 2) -> torch.Tensor:
    """Share of the map's energy inside the mask; higher is better.

    Wang et al., "Score-CAM", CVPR Workshops 2020 (arXiv:1910.01279). A map of zeros has nothing inside: 0.

    Parameters
    ----------
    maps : (B, H, W) floating tensor in [0, 1]
    masks : (B, H, W) bool tensor
        True on the object.
    spatial_dims : {1, 2, 3}
        3 for maps and masks (B, D, H, W) of volumes, 1 for (B, L) of signals.

    Returns
    -------
    (B,) float64 tensor in [0, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or a mask is empty; the message names the image.
    """
    maps, masks = _check(maps, masks, spatial_dims)
    return _share((maps * masks).double().sum(dim=1), maps.double().sum(dim=1))


def pointing_game(maps: torch.Tensor, masks: torch.Tensor, *, spatial_dims: int = 2) -> torch.Tensor:
    """Whether the map's maximum is inside the mask; higher is better.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018 (arXiv:1608.00507), without its margin
    of 15 pixels. Where the maximum is attained at several pixels the value is the share of them inside, the chance of a
    hit when one of them is drawn; so a flat map scores what the mask covers.

    Parameters
    ----------
    maps : (B, H, W) floating tensor in [0, 1]
    masks : (B, H, W) bool tensor
        True on the object.
    spatial_dims : {1, 2, 3}
        3 for maps and masks (B, D, H, W) of volumes, 1 for (B, L) of signals.

    Returns
    -------
    (B,) float64 tensor in [0, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or a mask is empty; the message names the image.
    """
    maps, masks = _check(maps, masks, spatial_dims)
    top = maps == maps.amax(dim=1, keepdim=True)
    return _share((top & masks).sum(dim=1), top.sum(dim=1))


def best_iou(maps: torch.Tensor, masks: torch.Tensor, *, spatial_dims: int = 2) -> torch.Tensor:
    """Intersection over union of mask and map, at the threshold of each map that makes it largest; higher is better.

    Every threshold is tried: the map's values, each with all pixels that reach it.

    Parameters
    ----------
    maps : (B, H, W) floating tensor in [0, 1]
    masks : (B, H, W) bool tensor
        True on the object.
    spatial_dims : {1, 2, 3}
        3 for maps and masks (B, D, H, W) of volumes, 1 for (B, L) of signals.

    Returns
    -------
    (B,) float64 tensor in [0, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or a mask is empty; the message names the image.
    """
    maps, masks = _check(maps, masks, spatial_dims)
    values, order = maps.sort(dim=1, descending=True)
    inside = masks.gather(1, order).cumsum(dim=1)
    chosen = torch.arange(1, values.shape[1] + 1, device=maps.device)
    iou = inside / (masks.sum(dim=1, keepdim=True) + chosen - inside).double()
    # A threshold takes all pixels of a value or none: only the last of equal ones counts.
    last = torch.ones_like(values, dtype=torch.bool)
    last[:, :-1] = values[:, :-1] > values[:, 1:]
    return torch.where(last, iou, 0.0).amax(dim=1)


def mosaic(images: torch.Tensor, n: int) -> torch.Tensor:
    """Grids of n x n images, row by row.

    Parameters
    ----------
    images : (M, n * n, C, H, W) tensor
    n : int

    Returns
    -------
    (M, C, n * H, n * W) tensor

    Raises
    ------
    ValueError
        If there are not n * n images for each grid.
    """
    if not isinstance(images, torch.Tensor) or images.ndim != 5 or images.shape[1] != n * n:
        got = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"images: expected a tensor (M, {n * n}, C, H, W) for grids of {n} x {n}; got {got}")
    many, _, channels, height, width = images.shape
    grids = images.reshape(many, n, n, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return check_images(grids.reshape(many, channels, n * height, n * width))


def grid_pointing_game(maps: torch.Tensor, n: int) -> torch.Tensor:
    """Share of a map's energy in the cell that shows its class; higher is better, 1 / n^2 is chance.

    Böhle et al., "Convolutional Dynamic Alignment Networks", CVPR 2021 (arXiv:2104.00032). A map of zeros has nothing
    in its cell: 0.

    Parameters
    ----------
    maps : (M, n * n, H, W) floating tensor in [0, 1]
        Of each of M mosaics one map for each cell, row by row, explaining the class of that cell. H and W are multiples
        of n.
    n : int
        Cells a side.

    Returns
    -------
    (M, n * n) float64 tensor in [0, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument is refused; the message names it.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n: expected a number of cells a side, at least 1; got {n!r}")
    if not isinstance(maps, torch.Tensor) or maps.ndim != 4 or maps.shape[1] != n * n:
        got = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise ValueError(f"maps: expected a tensor (M, {n * n}, H, W), one map for each cell; got {got}")
    if maps.shape[2] % n or maps.shape[3] % n:
        raise ValueError(f"maps: expected sides that are multiples of n = {n}; got {tuple(maps.shape[2:])}")
    mosaics, count, height, width = maps.shape
    cells = check_maps(maps.flatten(0, 1)).double().reshape(mosaics, count, n, height // n, n, width // n)
    cells = cells.sum(dim=(3, 5)).reshape(mosaics, count, count)
    return _share(cells.diagonal(dim1=1, dim2=2), cells.sum(dim=2))


def _check(maps: object, masks: object, spatial_dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and masks that fit, each (B, pixels)."""
    if isinstance(spatial_dims, bool) or spatial_dims not in (1, 2, 3):
        raise ValueError(f"spatial_dims: expected 1, 2 or 3, the spatial axes of a map; got {spatial_dims!r}")
    if isinstance(maps, torch.Tensor) and maps.ndim != spatial_dims + 1:
        raise ValueError(
            f"maps: expected shape {MAPS[spatial_dims]} with spatial_dims={spatial_dims}; got {tuple(maps.shape)}. Of "
            "volumes (B, D, H, W) give spatial_dims=3, of signals (B, L) spatial_dims=1; of several targets an image "
            "maps.flatten(0, 1)"
        )
    maps = check_maps(maps, spatial_dims=spatial_dims)
    if not isinstance(masks, torch.Tensor) or masks.dtype != torch.bool:
        got = masks.dtype if isinstance(masks, torch.Tensor) else type(masks).__name__
        raise TypeError(f"masks: expected a bool tensor, True on the object; got {got}")
    if masks.shape != maps.shape:
        raise ValueError(f"masks: expected shape {tuple(maps.shape)}, as the maps; got {tuple(masks.shape)}")
    if masks.device != maps.device:
        raise ValueError(f"masks: expected device '{maps.device}', as the maps; got '{masks.device}'")
    empty = ~masks.flatten(1).any(dim=1)
    if bool(empty.any()):
        named = ", ".join(str(b) for b in empty.nonzero().flatten().tolist()[:10])
        raise ValueError(f"masks: expected the object in each; that of image {named} is empty")
    return maps.flatten(1), masks.flatten(1)


def _share(part: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    return torch.where(total > 0, part.double() / total.double(), 0.0)
