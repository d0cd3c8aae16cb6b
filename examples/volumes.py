"""A volume: where a network that extracts brains from T1-weighted MRI sees it, written in the volume's own space.

deepbet's LinkNet in 3-D with its trained weights, which come by pip, on the template MNI152, which nilearn brings:
pip install --no-deps deepbet
"""

import sys
from importlib import metadata
from pathlib import Path

import torch
from nilearn.datasets import load_mni152_template
from torch import nn

import cfcam_gpu
from cfcam_gpu import scans, targets
from cfcam_gpu.scans import planes

BRAIN = 1


def layer(convolution, activated=True):
    """A convolution, normalised; its names are those of the weights."""
    return nn.Sequential(convolution, nn.InstanceNorm3d(convolution.out_channels), *[nn.ReLU()] * activated)


class Block(nn.Module):
    """Two convolutions beside a short way."""

    def __init__(self, before, after, stride=1):
        super().__init__()
        self.double_conv = nn.Sequential(
            *layer(nn.Conv3d(before, after, 3, stride, 1, bias=False)),
            *layer(nn.Conv3d(after, after, 3, 1, 1, bias=False), activated=False),
        )
        if before != after:
            self.downsample = layer(nn.Conv3d(before, after, 1, stride, bias=False), activated=False)

    def forward(self, x):
        """At half the resolution where the channels grow."""
        return torch.relu(self.double_conv(x) + (self.downsample(x) if hasattr(self, "downsample") else x))


class Down(nn.Module):
    """Two blocks."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.block1, self.block2 = Block(before, after, stride), Block(after, after)

    def forward(self, x):
        """See Block."""
        return self.block2(self.block1(x))


class Up(nn.Sequential):
    """Fewer channels, a transposed convolution, as many channels as the layer beside has."""

    def __init__(self, before, after, stride):
        super().__init__()
        few = before // 4
        self.conv1 = layer(nn.Conv3d(before, few, 1, bias=False))
        self.tp_conv = layer(nn.ConvTranspose3d(few, few, 3, stride, 1, stride - 1, bias=False))
        self.conv2 = layer(nn.Conv3d(few, after, 1, bias=False))


class LinkNet3d(nn.Module):
    """(B, 1, D, H, W) to the logits of background and brain."""

    def __init__(self):
        super().__init__()
        self.init = nn.Sequential(*layer(nn.Conv3d(1, 16, 7, 2, 3, bias=False)), nn.MaxPool3d(3, 2, 1))
        self.down0, self.down1 = Down(16, 16, 1), Down(16, 32, 2)
        self.down2, self.down3 = Down(32, 64, 2), Down(64, 128, 2)
        self.up0, self.up1 = Up(128, 64, 2), Up(64, 32, 2)
        self.up2, self.up3 = Up(32, 16, 2), Up(16, 16, 1)
        self.tp_conv1 = layer(nn.ConvTranspose3d(16, 8, 3, 2, 1, 1))
        self.conv = layer(nn.Conv3d(8, 8, 3, 1, 1))
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x):
        """Each volume over its own mean and deviation, as it was trained."""
        x = (x - x.mean((1, 2, 3, 4), keepdim=True)) / x.std((1, 2, 3, 4), keepdim=True) * 0.226 + 0.449
        zero = self.init(x)
        one = self.down0(zero)
        two = self.down1(one)
        three = self.down2(two)
        up = self.up0(self.down3(three)) + three
        up = self.up2(self.up1(up) + two) + one
        return self.tp_conv2(self.conv(self.tp_conv1(self.up3(up) + zero)))


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples")
folder.mkdir(parents=True, exist_ok=True)
load_mni152_template(resolution=2).to_filename(folder / "t1.nii.gz")
weights = next(file for file in metadata.files("deepbet") if file.name == "bbox_model.pt")
model = LinkNet3d()
model.load_state_dict(torch.jit.load(weights.locate(), map_location="cpu").state_dict())

# As it was trained: X, Y and Z, the whole volume, black and white at these percentiles.
preparation = scans.VolumePreparation((96, 96, 96), axcodes="RAS", percentiles=(0.5, 99.5))
scan = scans.read_nifti(folder / "t1.nii.gz")
images = preparation.normalize(preparation.pixels(scan)[None])
explain = cfcam_gpu.CFCAM(model.eval())
result = explain(images, targets.Segment(BRAIN))

# What was done to the volume on its way to the network is all in the grid of the network's input.
grid = preparation.grid(scan.grid)
scans.save_nifti(result.maps[0], folder / "brain.nii.gz", like=scan, grid=grid)
pictures = planes.draw(preparation.shades(scan), scan.grid, result.maps[0].numpy(), grid)
pictures.overlay.save(folder / "volumes.png")
brain = result.logits.argmax(1)[0] == BRAIN
share = float(result.maps[0][brain].sum() / result.maps[0].sum())
print(f"{share:.1%} of the evidence is in the predicted brain; at {' and '.join(one.name for one in result.layers)}")
