"""A photograph explained by an exported file alone: with onnxruntime, NumPy and Pillow, without torch and cfcam_gpu.

    cfcam-gpu export lite0.onnx                          # once, where they are
    python examples/onnx_only.py lite0.onnx cat.jpg out  # anywhere

writes the map over the photograph, out/cat.png, and its values, out/cat.npy.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

#: Colours of a map from 0 to 1: those of Turbo, at equal steps.
COLOURS = np.array([
    (48, 18, 59), (64, 64, 162), (70, 107, 227), (66, 148, 255), (40, 188, 235), (24, 221, 194), (50, 242, 152),
    (109, 254, 98), (164, 252, 60), (205, 236, 52), (238, 207, 58), (253, 172, 52), (251, 126, 33), (235, 80, 14),
    (208, 47, 5), (169, 22, 1), (122, 4, 3),
])  # fmt: skip


def pixels_of(photograph, preparation):
    """(size, size, 3) uint8: the photograph resized, and its middle, as the model was trained."""
    image = ImageOps.exif_transpose(Image.open(photograph)).convert("RGB")
    # Of a panorama one of 2:1 is enough for the square in its middle.
    limit = 2 * min(image.size)
    image = middle(image, min(image.width, limit), min(image.height, limit))
    scale = preparation["resize"] / min(image.size)
    method = Image.Resampling[preparation["interpolation"].upper()]
    image = image.resize((round(image.width * scale), round(image.height * scale)), method)
    return np.asarray(middle(image, preparation["size"], preparation["size"]))


def middle(image, width, height):
    """So much of its middle."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def overlay(pixels, map, alpha=0.6):
    """The map in colour over what was explained; the more evidence, the less of the photograph shows."""
    places = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(map, places, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    weight = alpha * map[..., None]
    return Image.fromarray(((1 - weight) * pixels + weight * colours).round().astype(np.uint8))


parser = argparse.ArgumentParser(description="Explain a photograph by an exported file.")
parser.add_argument("file", help="FILE.onnx of cfcam-gpu export")
parser.add_argument("photograph", type=Path)
parser.add_argument("out", type=Path, help="folder for the map and its picture")
parser.add_argument("--target", type=int, default=-1, help="class to explain, of a file exported with --target input")
options = parser.parse_args()

session = onnxruntime.InferenceSession(options.file)
metadata = session.get_modelmeta().custom_metadata_map
said = {key.removeprefix("cfcam."): json.loads(value) for key, value in metadata.items() if key.startswith("cfcam.")}
if "format" not in said:
    raise SystemExit(f"{options.file} is no file of cfcam-gpu export: it holds no explanation")
preparation = said["preparation"]
if preparation is None:
    raise SystemExit(f"{options.file} doesn't say how a photograph is prepared; export it with preparation=")

if preparation.get("squash") or not isinstance(preparation["size"], int) or len(preparation["mean"]) != 3:
    raise SystemExit(f"{options.file} takes other images than squares of colours, cut out of a photograph's middle")
# Of the libraries' roundings ("rounding") it knows none: what the model sees may lie a pixel apart.
pixels = pixels_of(options.photograph, preparation)
images = (pixels.astype(np.float32) / 255 - np.float32(preparation["mean"])) / np.float32(preparation["std"])
# A file of a fixed batch takes so many images: the same one as often.
feed = {"images": np.repeat(images.transpose(2, 0, 1)[None], said["batch"] or 1, axis=0)}
if said["target"] == "input":
    shape = (len(feed["images"]), *([said["classes"]] if said["classes"] else []))
    feed["target"] = np.full(shape, options.target, np.int64)  # a negative one is the predicted class
elif options.target >= 0:
    parser.error("this file explains the predicted class; export one with --target input")

maps, raw_maps, logits, target, empty, converged = (output[0] for output in session.run(None, feed))
if said["classes"]:  # all of them are the same here
    maps, target, empty, converged = maps[0], target[0], empty[0], converged[0]
if np.isnan(maps).any():
    raise SystemExit("the model has no finite values for this photograph")

shares = np.exp(logits - logits.max())
name = said["class_names"][target] if said["class_names"] else f"class {target}"
print(f"{name}, {shares[target] / shares.sum():.1%}{'; nothing speaks for it: the map is empty' if empty else ''}")
if not converged:
    print("its clusters were not complete after the steps that the file has for them: take the map with caution")
options.out.mkdir(parents=True, exist_ok=True)
overlay(pixels, maps).save(options.out / f"{options.photograph.stem}.png")
np.save(options.out / f"{options.photograph.stem}.npy", maps)
