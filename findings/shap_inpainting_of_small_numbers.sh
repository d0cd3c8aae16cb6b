#!/usr/bin/env bash
# SHAP's masker of images by inpainting turns the image into bytes, also what isn't masked: an image of 0 to 1, as most
# networks take it, becomes black as a whole, and one that was normalised has only whole numbers, the negative ones
# others, which on x86 are up to 255.
#
# Guess before it was run: as it is, from the source.
#
# Expected: "Fill in the masked parts of the image through inpainting", so that what isn't masked stays
# (https://shap.readthedocs.io/en/latest/generated/shap.maskers.Image.html), and values that add up to the model's
# output less the base value.
#
# Seen: with nothing masked, all is 0. Base value and values of an image add up to the model's answer to a black image.
# With "blur(4,4)" they add up to its answer to the image. Nothing warns.
#
# It hurts every explanation with "inpaint_telea" or "inpaint_ns" of a network that takes no bytes: it is asked of black
# images alone, but for the base value, for which the whole image is its mean, and what the values divide among the
# pixels is the difference of these two.
#
# cfcam_gpu does not use it; its perturbations stay in the images' own dtype.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install shap==0.51.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 opencv-python-headless==5.0.0.93

cd "$folder"
venv/bin/python - <<'PYTHON'
import sys
import warnings

import cv2
import numpy as np
import shap

print("shap", shap.__version__, "opencv", cv2.__version__, "numpy", np.__version__)
random = np.random.default_rng(0)
SHAPE = (16, 16, 3)
image = random.uniform(0.2, 1, SHAPE).astype(np.float32)
images = {
    "of 0 to 1": image,
    "normalised": (image - image.mean()) / image.std(),
    "of 0 to 255": np.round(image * 255),
}
nothing_masked = np.ones(image.size, bool)


def model(batch):
    """Of images the mean of their left half."""
    return np.asarray(batch, np.float64)[:, :, :8].mean(axis=(1, 2, 3))[:, None]


def explained(masker, image):
    """The unmasked image by the masker, and what base value and values add up to."""
    kept = masker(nothing_masked, image)[0][0]
    values = shap.Explainer(model, masker)(image[None], max_evals=200, batch_size=50, silent=True)
    return kept, float(np.ravel(values.base_values)[0] + values.values.sum())


seen = {}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for name, image in images.items():
        answer = float(model(image[None])[0, 0])
        print(f"an image {name}, {image.min():.2f} to {image.max():.2f}: expected that it stays, and {answer:.4f}")
        for way in ("blur(4,4)", "inpaint_telea", "inpaint_ns"):
            kept, total = explained(shap.maskers.Image(way, SHAPE), image)
            seen[name, way] = np.array_equal(kept, image), abs(total - answer) < 1e-4, float(kept.max())
            print(f"    seen by {way}: {kept.min():.2f} to {kept.max():.2f}, and {total:.4f}")
told = [str(warning.message) for warning in told if "cast" in str(warning.message)]
print("warnings of numbers that don't fit:", len(told))
as_described = all(
    seen["of 0 to 1", way] == (False, False, 0.0)
    and not any(seen["normalised", way][:2])
    and seen["of 0 to 255", way][:2] == (True, True)
    for way in ("inpaint_telea", "inpaint_ns")
) and all(seen[name, "blur(4,4)"][:2] == (True, True) for name in images)
sys.exit(None if as_described else "this has changed")
PYTHON
