#!/usr/bin/env bash
# transformers 5 collects hidden_states by hooks of its own, which it registers when they are first asked for. A
# forward hook of the user's that replaces a layer's output is therefore seen in hidden_states if it was registered
# before that first call, and not seen if it was registered later. In both cases the next layer gets what the hook
# returned: in the second, hidden_states holds what no layer was given.
#
# Expected: the documentation of hidden_states promises what leaves each layer, and the embeddings: what a layer hands
# to the next one, whenever the hook was registered. The same model with the same hook gives the same hidden_states.
#
# It hurts work that intervenes in a model and reads it back: ablation, activation patching and steering, and
# attributions that cut the graph at a layer by a hook. A measurement before the intervention, the usual order, makes
# the difference.
#
# cfcam_gpu reads a layer by a hook that it registers last, at each call, and never hidden_states
# (cfcam_gpu/hooks/activation_hook.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6
pip install transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import torch
import transformers
from transformers import ViTConfig, ViTModel

print("transformers", transformers.__version__, "torch", torch.__version__)
config = ViTConfig(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16
)
images = torch.randn(1, 3, 32, 32)


def zeros(layer, inputs, output):
    return (
        torch.zeros_like(output) if isinstance(output, torch.Tensor) else (torch.zeros_like(output[0]), *output[1:])
    )


def recorded_and_received(asked_before):
    """Whether the hidden state after the second layer is zero, and whether what the third layer gets is."""
    model = ViTModel(config).eval()
    layers = next(
        module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 3
    )
    with torch.no_grad():
        if asked_before:
            model(images, output_hidden_states=True)
        received = []
        layers[1].register_forward_hook(zeros)
        layers[2].register_forward_pre_hook(lambda layer, inputs: received.append(inputs[0]))
        recorded = model(images, output_hidden_states=True).hidden_states[2]
    return not recorded.any(), not received[0].any()


early, late = recorded_and_received(asked_before=False), recorded_and_received(asked_before=True)
print("expected: hidden_states[2] is zero, as is what the next layer gets: (True, True) in both orders")
print("seen, hook before hidden_states were first asked for:", tuple(map(bool, early)))
print("seen, hook after that:                               ", tuple(map(bool, late)))
as_described = tuple(map(bool, early)) == (True, True) and tuple(map(bool, late)) == (False, True)
sys.exit(None if as_described else "this has changed")
PYTHON
