"""Figures for a paper: methods side by side, and one explanation in parts.

EfficientNet-Lite0 with its ImageNet weights, and photographs of scikit-image: the extra `demo` brings both.
"""

import sys
from pathlib import Path

import torch
from photographs import write

import cfcam_gpu

found = cfcam_gpu.photographs.load("lite0")
pixels = [found.preparation.pixels(cfcam_gpu.photographs.read(path)) for path in cfcam_gpu.photographs.samples()[:2]]
images = found.preparation.normalize(torch.stack(pixels))

results = {
    title: cfcam_gpu.CAM(found.module, method=method, class_names=found.class_names)(images)
    for title, method in {"Grad-CAM": "gradcam", "LayerCAM": "layercam", "CF-CAM": "cfcam"}.items()
}
result = results["CF-CAM"]
write("figures", result, images)

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples")
cfcam_gpu.compare(results, images).savefig(folder / "methods.pdf")
parts = result[0].components(images[:1], top=3)
result[0].figure(images[:1], components=parts).savefig(folder / "components.svg")
print(", ".join(f"{name} {share:.0%}" for name, share in zip(result.classes, result.probability.tolist())))
