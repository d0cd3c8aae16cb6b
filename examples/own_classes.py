"""A network of one's own, from a folder of pictures to explanations by class name: in Python and by the command line.

It is trained on made pictures of three shapes, in seconds, and saved with the names of its classes.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from photographs import write
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

import cfcam_gpu
from cfcam_gpu import photographs

SIZE = 64
CLASSES = ("circle", "cross", "square")
#: What the network sees: grey pictures, all of each, in [-1, 1].
PREPARATION = photographs.Preparation(SIZE, SIZE, Image.Resampling.BILINEAR, (0.5,), (0.5,), squash=True)


def network():
    """The network without its weights; the command line calls it, and gets how its images are prepared with it."""
    blocks = []
    for before, after in ((1, 16), (16, 32), (32, 32)):
        blocks += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(CLASSES))), PREPARATION


def draw(shape, random):
    """A picture of one shape on noise, somewhere."""
    picture = Image.fromarray(random.integers(0, 90, (SIZE, SIZE), np.uint8))
    pen, side = ImageDraw.Draw(picture), int(random.integers(14, 24))
    x, y = (int(value) for value in random.integers(2, SIZE - 2 - side, 2))
    if shape == "circle":
        pen.ellipse((x, y, x + side, y + side), outline=255, width=4)
    elif shape == "square":
        pen.rectangle((x, y, x + side, y + side), outline=255, width=4)
    else:
        pen.line((x, y, x + side, y + side), 255, 4)
        pen.line((x, y + side, x + side, y), 255, 4)
    return picture


def make(folder, count):
    """Pictures in a sub-folder for each class, as torchvision's ImageFolder has them."""
    random = np.random.default_rng(0)
    for shape in CLASSES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            draw(shape, random).save(folder / shape / f"{index:03}.png")


def train(folder):
    """The network, trained on the pictures of a folder."""
    torch.manual_seed(0)
    model, preparation = network()
    files = sorted(folder.glob("*/*.png"))
    images = preparation.normalize(torch.stack([preparation.pixels(photographs.read(file)) for file in files]))
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(16):
        for some in torch.randperm(len(images)).split(15):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[some]), labels[some]).backward()
            optimizer.step()
    return model.eval()


def main():
    """Train, save, and explain."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples").absolute()
    made = folder / "own_classes"
    make(made / "shapes", 30)
    model = train(made / "shapes")
    torch.save(model.state_dict(), made / "shapes.pth")
    (made / "classes.txt").write_text("\n".join(CLASSES) + "\n")

    # In Python: classes by their names, and each picture explained for two of them.
    files = [made / "shapes" / name / "000.png" for name in CLASSES]
    images = PREPARATION.normalize(torch.stack([PREPARATION.pixels(photographs.read(file)) for file in files]))
    explain = cfcam_gpu.CFCAM(model, class_names=CLASSES)
    result = explain(images, [["circle", "square"], ["cross", "circle"], ["square", "cross"]])
    for file, classes in zip(files, result.classes):
        print(f"{file.parent.name}: {' and '.join(classes)}")
    write("own_classes", result, images)

    # The same by the command line, which finds this file's function in the folder it is called in.
    command = [sys.executable, "-m", "cfcam_gpu", "explain", *map(str, files), "--model", "own_classes:network"]
    command += ["--weights", str(made / "shapes.pth"), "--classes", str(made / "classes.txt"), "--target", "circle"]
    command += ["--out", str(made / "explained"), "--overwrite"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent)
    return result


if __name__ != "own_classes":  # as which the command line imports it, for the network alone
    result = main()
