"""Every CAM method by name: what it is, what it costs, and how its maps come from what was captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import nn

from ..core.config import Config
from ..hooks import many_layers
from ..hooks.target_layer import TargetLayer
from ..targets.request import Objective, Request
from . import class_scores, forwards, gradient, several

__all__ = ["METHODS", "Method", "find"]

#: Raw maps (B, T, ...) from activations (B, C, ...) and gradients (B, T, C, ...).
FromGradients: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: Raw maps (B, T, ...) from the model, the images and what was captured of them.
FromModel: TypeAlias = Callable[[forwards.Work], torch.Tensor]
#: Raw maps (B, T, *grid) from what was captured of many layers, and the grid.
FromLayers: TypeAlias = Callable[[Sequence[several.AtLayer], Sequence[int]], torch.Tensor]
#: The layers that a method takes where none is named.
Choose: TypeAlias = Callable[[nn.Module, torch.Tensor, Request | None], tuple[TargetLayer, ...]]

_BACKWARD = "one backward"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A CAM method.

    Exactly one of `from_gradients`, `from_model`, `from_layers`, `attention` and `cluster_filter` is set.

    Parameters
    ----------
    title : str
        Its name in print.
    paper : str
        Where it is defined.
    cost : str
        What it takes beyond one forward; a backward goes from the score to the target layer.
    from_gradients : callable, optional
        Such a method can be given gradients that are not the model's own, to measure how it bears noise in them.
    from_model : callable, optional
    from_layers : callable, optional
        Such a method makes one map of many layers, which `choose` finds where none are named.
    attention : bool
        It is LeGrad, whose map comes from the attention of all blocks of a vision transformer.
    choose : callable, optional
    objective : callable, optional
        What is differentiated in the place of a class's logit.
    classes_only : bool
        It explains class indices, and no callables.
    gradients : bool
        It looks at gradients. Others need no autograd behind the layer.
    curvature : bool
        It needs second derivatives.
    cluster_filter : bool
        It is CF-CAM.
    config : Config, optional
        Of CF-CAM; None is the default for the number of layers.
    """

    title: str
    paper: str
    cost: str = _BACKWARD
    from_gradients: FromGradients | None = None
    from_model: FromModel | None = None
    from_layers: FromLayers | None = None
    attention: bool = False
    choose: Choose | None = None
    objective: Objective | None = None
    classes_only: bool = False
    gradients: bool = True
    curvature: bool = False
    cluster_filter: bool = False
    config: Config | None = None

    @property
    def layers(self) -> Literal["one", "all"]:
        """Whether it makes a map of one layer, or one of many at once; CF-CAM's two levels count as one."""
        return "all" if self.attention or self.from_layers is not None else "one"

    @property
    def libragrad(self) -> bool:
        """Whether it can take LibraGrad's gradients: there are no second ones, and none of attention's weights."""
        return self.gradients and not self.curvature and not self.attention


_CFCAM = "arXiv:2504.00060"

#: Every method by the name that :class:`cfcam_gpu.CAM` takes.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "cfcam": Method(title="CF-CAM", paper=_CFCAM, cluster_filter=True),
        "cfcam-one": Method(title="CF-CAM, one level", paper=_CFCAM, cluster_filter=True, config=Config()),
        "cfcam-paper": Method(title="CF-CAM, paper", paper=_CFCAM, cluster_filter=True, config=Config.paper()),
        "gradcam": Method(title="Grad-CAM", paper="arXiv:1610.02391", from_gradients=gradient.gradcam),
        "gradcam++": Method(title="Grad-CAM++", paper="arXiv:1710.11063", from_gradients=gradient.gradcam_plusplus),
        "hirescam": Method(title="HiResCAM", paper="arXiv:2011.08891", from_gradients=gradient.hirescam),
        "xgradcam": Method(title="XGrad-CAM", paper="arXiv:2008.02312", from_gradients=gradient.xgradcam),
        "layercam": Method(title="LayerCAM", paper="doi:10.1109/TIP.2021.3089943", from_gradients=gradient.layercam),
        "eigencam": Method(
            title="Eigen-CAM",
            paper="arXiv:2008.00299",
            cost="nothing",
            from_gradients=gradient.eigencam,
            gradients=False,
        ),
        "eigengradcam": Method(
            title="Eigen-Grad-CAM", paper="pytorch-grad-cam, 2021", from_gradients=gradient.eigengradcam
        ),
        "finercam": Method(
            title="Finer-CAM",
            paper="arXiv:2501.11309",
            from_gradients=gradient.gradcam,
            objective=class_scores.finer,
            classes_only=True,
        ),
        "shapleycam": Method(
            title="ShapleyCAM",
            paper="arXiv:2501.06261",
            cost="three backwards",
            from_model=forwards.shapleycam,
            objective=class_scores.residual_softmax,
            curvature=True,
        ),
        "scorecam": Method(
            title="Score-CAM",
            paper="arXiv:1910.01279",
            cost="a forward for each live channel",
            from_model=forwards.scorecam,
            gradients=False,
        ),
        "ablationcam": Method(
            title="Ablation-CAM",
            paper="doi:10.1109/WACV45572.2020.9093360",
            cost="a forward from the layer on for each live channel",
            from_model=forwards.ablationcam,
            gradients=False,
        ),
        "smoothgradcam++": Method(
            title="Smooth Grad-CAM++",
            paper="arXiv:1908.01224",
            cost=f"{forwards.SAMPLES + 1} backwards, {forwards.SAMPLES} forwards",
            from_model=forwards.smoothgradcam_plusplus,
        ),
        "reciprocam": Method(
            title="Recipro-CAM",
            paper="arXiv:2209.14074",
            cost="a forward from the layer on for each position",
            from_model=forwards.reciprocam,
            objective=class_scores.probability,
            gradients=False,
        ),
        "refinecam": Method(
            title="RefineCAM",
            paper="arXiv:2605.14641",
            cost="one backward to the first of its layers",
            from_layers=several.refinecam,
            choose=many_layers.stage_ends,
        ),
        "winsorcam": Method(
            title="Winsor-CAM",
            paper="arXiv:2507.10846",
            cost="one backward through the whole network",
            from_layers=several.winsorcam,
            choose=many_layers.convolutions,
        ),
        "legrad": Method(
            title="LeGrad",
            paper="arXiv:2404.03214",
            cost="a backward through each block, and the head on the mean token of each",
            attention=True,
        ),
        "randomcam": Method(
            title="Random-CAM",
            paper="none; a floor for sanity checks",
            cost="nothing",
            from_model=forwards.randomcam,
            gradients=False,
        ),
    }
)


def find(name: object) -> Method:
    """The method of a name.

    Raises
    ------
    ValueError
        If there is none; the message has all names.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {name!r}")
    return METHODS[name]
