"""Makes ``import torchvision`` work beside a torch that its compiled part was not built for.

pytorch-grad-cam imports torchvision for two image transforms, none of which a benchmark calls. A torchvision without
its compiled operators fails to import for one reason: it registers shape functions for ``nms`` and ``qnms``, which
nobody declared.
"""

from __future__ import annotations

import torch

_ABSENT = "operator torchvision::"
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[torch.library.Library] = []  # torch forgets the operators of a Library that is collected


def import_torchvision() -> None:
    """Import torchvision; where it stumbles over its absent operators, declare them, without a kernel, and try again.

    Tried first, since a torchvision that has its operators refuses to find them declared already.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if _ABSENT not in str(error) or _kept:
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in _SCHEMAS.items():
            library.define(name + schema)
        _kept.append(library)
        import_torchvision()
