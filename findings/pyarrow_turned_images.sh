#!/usr/bin/env bash
# pyarrow's FixedShapeTensorArray gives back another batch than it was made of when the images' axes were turned: the
# view (N, H, W, C) of images kept as (N, C, H, W) comes back as (N, W, C, H) with the values in other places; for other
# sizes the conversion back raises. And one row of an array whose height and width were swapped has the right shape and
# wrong values, though the whole array is right.
#
# Expected: FixedShapeTensorArray.from_numpy_ndarray(images).to_numpy_ndarray() equals images, as it does for axes in
# the order that they are kept in, and for two that are swapped; array[i].to_numpy() equals row i of it.
#
# It hurts data sets of images, feature maps and heat maps in Parquet and Arrow files: to turn (C, H, W) into (H, W, C)
# or back is what everyone does between torch and NumPy, it gives a view, and where the sides are equal to the number
# of channels not even the shape tells.
#
# cfcam_gpu writes no tensors of Arrow: its maps are in Zarr, and it reads images from columns of bytes.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install pyarrow==26.0.1 numpy==2.4.6

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import numpy as np
import pyarrow as pa

print("pyarrow", pa.__version__, "numpy", np.__version__)


def outcome(convert, expected):
    try:
        found = convert()
        return found.shape, np.array_equal(found, expected)
    except Exception as error:
        return type(error).__name__, False


def seen(what, images):
    array = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    whole, row = outcome(array.to_numpy_ndarray, images), outcome(array[1].to_numpy, images[1])
    print(f"expected: {what}: {images.shape} and equal; row 1 {images[1].shape} and equal")
    print(f"seen:     {what}: {whole[0]} and equal: {whole[1]}; row 1 {row[0]} and equal: {row[1]}")
    return whole, row


def kept(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


turned = (0, 2, 3, 1)
as_described = (
    seen("N, C, H, W as they are kept", kept(2, 3, 4, 5)) == (((2, 3, 4, 5), True), ((3, 4, 5), True))
    and seen("height and width swapped", kept(2, 3, 4, 5).swapaxes(2, 3))[0] == ((2, 3, 5, 4), True)
    and seen("a grey one's, H and W swapped", kept(2, 3, 4).swapaxes(1, 2)) == (((2, 4, 3), True), ((4, 3), False))
    and seen("N, H, W, C", kept(2, 3, 4, 5).transpose(turned))[0] == ((2, 5, 3, 4), False)
    and seen("N, H, W, C, as many each", kept(2, 3, 3, 3).transpose(turned))[0] == ((2, 3, 3, 3), False)
    and seen("N, H, W, C, kept larger first", kept(2, 5, 4, 3).transpose(turned))[0] == ("ArrowInvalid", False)
)
sys.exit(None if as_described else "this has changed")
PYTHON
