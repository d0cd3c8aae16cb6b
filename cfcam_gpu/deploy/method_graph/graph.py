"""The method from activations and gradients to raw maps."""

from __future__ import annotations

from math import prod

import torch

from ...core.cluster_filter import MAX_MAP
from ...core.config import Config
from ..tensorrt import TOO_MANY_ORDERED
from .channels import Roles, Scaled, assign, exponent, once, scale
from .clusters import Groups, dbscan
from .constants import Ranks, constant
from .distances import measure
from .maps import gate, where_finite
from .radius import radius
from .weighing import Weighing


def refuse(config: Config, channels: int, spatial: tuple[int, ...], *, unrolled: bool) -> None:
    """Refuse what the graph can't hold.

    Parameters
    ----------
    config : Config
    channels : int
        Of the layer that is clustered.
    spatial : tuple of int
        Its map's size.
    unrolled : bool
        As for :class:`MethodGraph`.

    Raises
    ------
    ValueError
        If there are not one to three axes, or, unrolled, too many channels to put into order.
    """
    if not 1 <= len(spatial) <= 3:
        raise ValueError(f"layer: expected activations of 1, 2 or 3 spatial axes; got a map of {spatial}")
    if not unrolled:
        return
    ranks = Ranks(config, channels)
    ordered = max(ranks.most_clustered, ranks.most_dominant)
    if ordered >= TOO_MANY_ORDERED:
        raise ValueError(
            f"dominant_percentile: expected a layer of which fewer than {TOO_MANY_ORDERED} channels are to be put into "
            f"order, which is TensorRT's limit; got {channels} channels, {ordered} of them in order at "
            f"dominant_percentile={config.dominant_percentile:g}. Choose another layer or percentile, or export for "
            "ONNX Runtime"
        )


def clustered(
    scaled: Scaled, pooled: torch.Tensor, config: Config, *, unrolled: bool, fused: bool = False
) -> tuple[Roles, Groups | None, torch.Tensor]:
    """Steps 1 and 2.

    Parameters
    ----------
    scaled : Scaled
        Activations.
    pooled : (N, C) float32
        Spatial means of the gradients.
    config : Config
    unrolled, fused : bool
        As for :class:`MethodGraph`.

    Returns
    -------
    roles : Roles
    groups : Groups or None
        None where all channels are dominant or dead, whatever comes.
    converged : (N,) bool
    """
    ranks = Ranks(config, pooled.shape[1])
    roles = assign(scaled, pooled, config, ranks)
    if not ranks.most_clustered:
        return roles, None, torch.ones_like(roles.clustered, dtype=torch.bool)
    distances = measure(scaled, roles, config)
    eps, found = radius(distances, roles, config, ranks, unrolled=unrolled, fused=fused)
    far = (distances.squares > eps[:, None, None]).float()
    min_samples = constant(ranks.min_samples, far).index_select(0, roles.clustered)
    index, settled = dbscan(far, min_samples, unrolled=unrolled)
    return roles, Groups(index, roles.here.float()), found & settled


def _in_rows(maps: torch.Tensor) -> torch.Tensor:
    """Maps (N, C, *spatial) as Inductor then stores them: once, map by map, while the axes are still known to it.

    It lays out convolutions with the channels last, and would look up each position of a flat map from there.
    """
    strides = [prod(maps.shape[axis + 1 :]) for axis in range(maps.ndim)]
    return maps.contiguous().as_strided(maps.shape, strides)


class MethodGraph:
    """CF-CAM of N images, or images and targets, in tensor operators that runtimes have.

    Parameters
    ----------
    config : Config
    unrolled : bool
        Whether steps that are repeated until nothing changes stand in the graph so often as they take at most, as far
        as was seen, instead of once in a Loop; and operators that TensorRT lacks are written out.
    fused : bool
        Whether the runtime makes one loop of operators that go over the same tensor, as Inductor does.
    """

    def __init__(self, config: Config, *, unrolled: bool, fused: bool = False) -> None:
        self.config = config
        self.unrolled = unrolled
        self.fused = fused

    def __call__(
        self,
        activations: torch.Tensor,
        gradients: torch.Tensor,
        coarse: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The raw maps.

        Parameters
        ----------
        activations, gradients : (N, C, *spatial) floating
            N may be symbolic, all else are ints.
        coarse : tuple of two (N, C', *spatial') floating tensors, optional
            The same of the coarse layer, where the configuration has two levels.

        Returns
        -------
        raw_maps : (N, *spatial) float32
            At least 0; NaN throughout where an image's activations or gradients are NaN or infinite.
        converged : (N,) bool
            False where the unrolled steps were too few: the map means nothing.

        Raises
        ------
        ValueError
            If the configuration has two levels, and no coarse layer is given.
        """
        size = tuple(activations.shape[2:])
        activations, gradients = activations.float(), gradients.float()
        if self.fused:
            activations, gradients = _in_rows(activations), _in_rows(gradients)
        of_images, of_targets = activations.flatten(2), gradients.flatten(2)
        maps, converged = self._one_level(of_images, of_targets, size)
        maps = maps.reshape(-1, *size)
        if self.config.gate is not None:
            if self.config.gate_by == "own":
                coarse = activations, gradients
            if coarse is None:
                raise ValueError("coarse: expected two tensors, as the configuration has two levels; got None")
            maps = gate(maps, coarse[0].float(), coarse[1].float(), self.config)
        return maps, converged

    def _one_level(
        self, activations: torch.Tensor, gradients: torch.Tensor, size: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw maps (N, P) and (N,), of two (N, C, P) float32."""
        config = self.config
        scaled, pooled = scale(activations), gradients.mean(2)
        roles, groups, converged = clustered(scaled, pooled, config, unrolled=self.unrolled, fused=self.fused)
        weighing = Weighing(config, size, unrolled=self.unrolled)
        of_image = scaled.exponents.amax(1)
        if config.combine == "pooled":
            activations = activations * torch.exp2(-of_image)[:, None, None]
            weights = weighing.weights(gradients, pooled, roles, groups)
            unit = exponent(weights, 1)
            # Sums, not a product of matrices, for which some runtimes round to fewer bits.
            evidence = ((weights * torch.exp2(-unit)[:, None])[:, :, None] * activations).sum(1)
        else:
            unit = exponent(gradients, (1, 2))
            units = once(torch.exp2(-of_image), torch.exp2(-unit))
            activations, gradients = (values * by[:, None, None] for values, by in zip((activations, gradients), units))
            evidence = weighing.evidence(activations, gradients, roles, groups)
        # The smaller first, as the larger alone could be beyond float32.
        small, large = torch.minimum(of_image, unit), torch.maximum(of_image, unit)
        maps = evidence.relu() * torch.exp2(small)[:, None] * torch.exp2(large)[:, None]
        return where_finite(maps.clamp(max=MAX_MAP), scaled.lengths, pooled), converged
