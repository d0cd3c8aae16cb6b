#!/usr/bin/env bash
# DIANNA's plot_image writes an empty picture where the plot is not to be shown: it closes its figure first, and saves the
# current one of matplotlib, which is then a new one, or another of the user's.
#
# Expected, from its docstring: show_plot "shows plot if true (for testing or writing plots to disk instead)", and
# output_filename "name of the file to save the plot to": with show_plot=False and a file's name, the plot in the file.
#
# It hurts whoever explains on a server: each file is there, none has a map, and nothing is said.
#
# cfcam_gpu draws without matplotlib's current figure: `result.save`, `result.figure`.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0 scikit-learn==1.9.1 matplotlib==3.11.2 pillow==13.0.0
pip install onnx==1.23.2 onnxruntime==1.32.0 tqdm==4.70.1
pip install --no-deps dianna==1.8.1

cd "$folder"
MPLBACKEND=agg venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from dianna.visualization.image import plot_image
from matplotlib import pyplot
from PIL import Image


def colours(name):
    """How many there are in a picture."""
    return len(np.unique(np.asarray(Image.open(name).convert("RGB")).reshape(-1, 3), axis=0))


print("dianna", version("dianna"), "matplotlib", version("matplotlib"))
heatmap = np.linspace(-1, 1, 64).reshape(8, 8)
plot_image(heatmap, show_plot=True, output_filename="shown.png")
pyplot.close("all")
plot_image(heatmap, show_plot=False, output_filename="not_shown.png")
seen = {name: colours(name) for name in ("shown.png", "not_shown.png")}
print("expected: as many colours in both files")
print("seen:", seen)
sys.exit(0 if seen["shown.png"] > 50 and seen["not_shown.png"] == 1 else 1)
PYTHON
