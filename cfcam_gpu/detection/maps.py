"""Maps of detections from what their scores see in each layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..core.config import Config
from ..core.maps import interpolate, over_maximum
from ..engines.execution import compute
from .evidence import Evidence


def raw_maps(
    of_detections: Sequence[Sequence[Evidence]],
    active: Sequence[Sequence[bool]],
    size: tuple[int, int],
    config: Config,
    engine: str,
) -> torch.Tensor:
    """CF-CAM of each detection at the image's size, (N, H, W) float32, >= 0.

    Of several layers the maps are added, each at the image's size and by its own scale: in every layer a map has the
    share of a position in the score, so that a layer counts as much as the score hangs on it there. The sum of a map
    stays the same at any size.

    Parameters
    ----------
    of_detections : sequence of N sequences of Evidence
    active : sequence of N sequences of bool
        Which of them have a part in the score; the others need no engine.
    size : (H, W)
    config : Config
        Of one layer.
    engine : str

    Raises
    ------
    ValueError
        If activations or gradients are NaN or infinite.
    """
    by_place = _filtered(of_detections, active, config, engine)
    if not by_place:
        return torch.zeros(0, *size)
    return torch.stack(
        [_together([by_place[i][j] for j in range(len(seen))], seen, size) for i, seen in enumerate(of_detections)]
    )


def _filtered(
    of_detections: Sequence[Sequence[Evidence]], active: Sequence[Sequence[bool]], config: Config, engine: str
) -> list[dict[int, torch.Tensor]]:
    """For each detection the raw map (h, w) of each window; those of the same activations in one run of the engine."""
    together: dict[int, list[tuple[int, int]]] = {}
    for i, seen in enumerate(of_detections):
        for j, one in enumerate(seen):
            together.setdefault(id(one.activations), []).append((i, j))
    found: list[dict[int, torch.Tensor]] = [{} for _ in of_detections]
    for places in together.values():
        for i, j in places:
            gradients = of_detections[i][j].gradients
            found[i][j] = torch.zeros(gradients.shape[1:], device=gradients.device)
        some = [(i, j) for i, j in places if active[i][j]]
        if some:
            windows = [of_detections[i][j] for i, j in some]
            gradients = torch.stack([one.gradients for one in windows])[None]
            result = compute(windows[0].activations[None], gradients, config, engine)
            for (i, j), raw in zip(some, result.raw_maps[0]):
                found[i][j] = raw
    return found


def _together(maps: Sequence[torch.Tensor], seen: Sequence[Evidence], size: tuple[int, int]) -> torch.Tensor:
    """The sum of a detection's maps at the image's size."""
    enlarged = [_enlarged(raw, one, size) for raw, one in zip(maps, seen)]
    return torch.stack(enlarged).sum(dim=0)


def _enlarged(raw: torch.Tensor, one: Evidence, size: tuple[int, int]) -> torch.Tensor:
    (top, left), (height, width) = one.corner, raw.shape
    whole = raw.new_zeros(one.grid)
    whole[top : top + height, left : left + width] = raw
    peak = whole.amax()
    # Scaled first: the sums inside interpolation may overflow next to float32's end.
    shape = interpolate(over_maximum(whole)[None, None], size, one.inside)[0, 0]
    inside = one.inside or ((0.0, 1.0), (0.0, 1.0))
    cells = one.grid[0] * (inside[0][1] - inside[0][0]) * one.grid[1] * (inside[1][1] - inside[1][0])
    return shape * (peak * abs(cells) / (size[0] * size[1]))
