#!/usr/bin/env bash
# timm's feature_info names, for each level of features, the module that gives it; for some families no such module
# exists: Twins and MViTv2 say 'block.0', where their modules are 'blocks.0' and 'stages.0', and HRNet says 'stem' and
# 'stage1'.
#
# Expected: "module" in feature_info, and feature_info.module_name(), is a name that model.get_submodule takes, as it
# is for ResNets, ConvNeXts and most other families: timm's own hooks for features look modules up by it.
#
# It hurts tools that choose a layer for any model of timm's: class activation maps, segmentation and detection on its
# backbones, feature distillation. The last entry of feature_info is the obvious target layer, and for Twins and
# MViTv2 the look-up raises.
#
# cfcam_gpu does not read feature_info: it finds layers by running the model once and looking at what each returns.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6
pip install --no-deps timm==1.0.31 torchvision==0.28.0 pillow==13.0.0 safetensors==0.8.0 pyyaml==6.0.4
pip install huggingface_hub==2.4.0

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import torch


def with_torchvision():
    """Import torchvision; beside a torch without its compiled operators, declare the two that its import looks up."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import torchvision  # noqa: F401

        return library


kept = with_torchvision()
import timm

print("timm", timm.__version__, "torch", torch.__version__)


def absent(name):
    """What a family's feature_info names that is no module of the model."""
    with torch.device("meta"):
        model = timm.create_model(name)
    modules = dict(model.named_modules())
    return [level["module"] for level in model.feature_info if level["module"] not in modules]


families = ("resnet18", "convnext_atto", "twins_svt_small", "mvitv2_tiny", "hrnet_w18")
seen = {name: absent(name) for name in families}
print("expected: every family names modules that exist, so none is absent")
for name, names in seen.items():
    print(f"seen:     {name}: absent {names}")
blocks = ["block.0", "block.1", "block.2", "block.3"]
as_described = list(seen.values()) == [[], [], blocks, blocks, ["stem", "stage1"]]
sys.exit(None if as_described else "this has changed")
PYTHON
