"""Two methods measured on photographs of your own with masks: a table with intervals, and a page to look at.

The photographs are four of scikit-image and scikit-learn, with ellipses that were drawn by hand for masks. Of so few
the intervals are wide, as they should be: a hundred tell methods apart. ``python examples/measure.py [FOLDER]``.
"""

import csv
import sys
from pathlib import Path

import skimage.data
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

import cfcam_gpu
from cfcam_gpu import metrics
from cfcam_gpu.cli import app
from cfcam_gpu.photographs import load, read

METHODS = ("cfcam", "gradcam")
#: The class by index, and what is around its object: left, top, right and bottom.
OBJECTS = {
    "chelsea": (282, (40, -20, 400, 320)),
    "coffee": (967, (75, 15, 480, 390)),
    "rocket": (657, (300, 125, 345, 410)),
    "flower": (985, (168, 85, 448, 360)),
}

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples") / "measured"
folder = out / "photographs"
folder.mkdir(parents=True, exist_ok=True)
rows = []
for name, (class_index, ellipse) in OBJECTS.items():
    pixels = load_sample_image("flower.jpg") if name == "flower" else getattr(skimage.data, name)()
    photograph = Image.fromarray(pixels)
    mask = Image.new("L", photograph.size, 0)
    ImageDraw.Draw(mask).ellipse(ellipse, fill=255)
    photograph.save(folder / f"{name}.png")
    mask.save(folder / f"{name}-mask.png")
    rows.append({"file": f"{name}.png", "mask": f"{name}-mask.png", "class_index": class_index})
with open(folder / "manifest.csv", "w", newline="") as file:
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)

# On the command line: cfcam-gpu bench localisation --data photographs --methods cfcam,gradcam --out results
shared = ["--overwrite", "--out"]
measured = ["bench", "localisation", "--data", str(folder), "--methods", ",".join(METHODS), *shared, str(out)]
app(measured, standalone_mode=False)
page = ["report", str(out), "--gallery", str(folder / "coffee.png"), *shared, str(out / "report.html")]
app(page, standalone_mode=False)

# The same in Python: maps of both methods, the share of their sum that is on the object, and the paired difference.
model = load("lite0")
takes = model.preparation
images = takes.normalize(torch.stack([takes.pixels(read(folder / row["file"])) for row in rows]))
masks = torch.stack([takes.pixels(read(folder / row["mask"]))[0] > 127 for row in rows])
classes = [row["class_index"] for row in rows]
results = {method: cfcam_gpu.CAM(model.module, method=method)(images, target=classes) for method in METHODS}
ours, theirs = (metrics.energy_pointing_game(found.maps, masks) for found in results.values())
difference = metrics.paired_difference(ours, theirs)
print(f"{METHODS[0]}: {metrics.mean_interval(ours).mean:.3f} of the map on the object")
print(f"more than {METHODS[1]} by {difference.mean:.3f}, 95% interval {difference.low:.3f} to {difference.high:.3f}")

result = results["cfcam"]
result.save(out.parent, images=images, names=list(OBJECTS), overwrite=True)
