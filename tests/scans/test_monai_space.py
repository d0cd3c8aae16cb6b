"""Whatever MONAI's transforms do to an image, a map of it comes back to where it lies in the file."""

import itertools
from functools import cache

import nibabel
import numpy as np
import pytest
import torch

from cfcam_gpu.scans.metatensor import in_file_space
from cfcam_gpu.scans.nifti import read_nifti

from . import phantoms

WAYS = {
    "Orientation RAS": lambda t: t.Orientation("RAS"),
    "Orientation PIL": lambda t: t.Orientation("PIL"),
    "Spacing": lambda t: t.Spacing((1.5, 1.5, 1.5)),
    "Resize": lambda t: t.Resize((32, 36, 28), mode="trilinear"),
    "CenterSpatialCrop": lambda t: t.CenterSpatialCrop((31, 30, 31)),
    "SpatialPad": lambda t: t.SpatialPad((47, 44, 38)),
    "ResizeWithPadOrCrop": lambda t: t.ResizeWithPadOrCrop((38, 38, 38)),
    "Flip": lambda t: t.Flip(1),
    "Rotate90": lambda t: t.Rotate90(1, (0, 2)),
    "Rotate": lambda t: t.Rotate((0.2, -0.1, 0.3), keep_size=False),
    "Zoom": lambda t: t.Zoom(0.8, keep_size=False),
}


@cache
def loaded(t, path):
    return t.LoadImage(image_only=True, ensure_channel_first=True)(path)


def off(found):
    """How many voxels of the file the middle of what is bright is off, and of which grid it is."""
    grid = phantoms.Grid(tuple(found.shape[1:]), found.affine.numpy())
    return np.abs(grid.index(phantoms.centre_of(found[0].numpy(), grid)) - phantoms.SPOT).max()


@pytest.fixture
def transforms(peer):
    return peer("monai.transforms")


@pytest.fixture(params=phantoms.AFFINES, scope="module")
def file(request, tmp_path_factory):
    return phantoms.saved(tmp_path_factory.mktemp("nifti") / f"{request.param}.nii", phantoms.AFFINES[request.param])


def pairs():
    """Each pair of ways from one orientation and, long, from all of them."""
    names, ways = list(phantoms.AFFINES), list(WAYS)
    for name, first, second in itertools.product(names, ways, ways):
        one = names[(ways.index(first) + ways.index(second)) % len(names)]
        yield pytest.param(name, first, second, marks=() if name == one else pytest.mark.long)


@pytest.mark.parametrize(("file", "first", "second"), [*pairs()], indirect=["file"])
def test_within_half_a_voxel(transforms, file, first, second):
    image = WAYS[second](transforms)(WAYS[first](transforms)(loaded(transforms, file)))
    found = in_file_space(image[0].as_tensor(), image)
    assert found.shape == (1, *phantoms.SHAPE)
    np.testing.assert_allclose(found.affine, nibabel.load(file).affine)
    assert off(found) < 0.5


def test_a_map_on_the_files_own_grid_stays_as_it_is(transforms, file):
    image = loaded(transforms, file)
    np.testing.assert_allclose(in_file_space(image[0].as_tensor(), image)[0], image[0], atol=1e-4)


def test_one_of_a_batch_and_several_targets(transforms, peer, file):
    data = peer("monai.data")
    way = transforms.Compose(
        [transforms.LoadImage(image_only=True, ensure_channel_first=True), WAYS["Resize"](transforms)]
    )
    batch = next(iter(data.DataLoader(data.Dataset([file, file], way), batch_size=2)))
    maps = batch.as_tensor()[1]
    found = in_file_space(torch.cat([maps, maps / 2]), batch[1])
    assert off(found) < 0.5
    np.testing.assert_allclose(found[1], found[0] / 2, atol=1e-6)


def test_what_monai_saves_is_read_in_the_same_place(transforms, file, tmp_path):
    image = WAYS["Spacing"](transforms)(WAYS["Orientation PIL"](transforms)(loaded(transforms, file)))
    found = in_file_space(image[0].as_tensor(), image)
    save = transforms.SaveImage(tmp_path, "map", resample=False, separate_folder=False, print_log=False)
    save(found)
    back = read_nifti(next(tmp_path.glob("*_map.nii.gz")))
    assert np.abs(back.grid.index(phantoms.centre_of(back.values, back.grid)) - phantoms.SPOT[::-1]).max() < 0.5


def test_what_has_no_place_is_refused(transforms, peer, file):
    image = loaded(transforms, file)
    with pytest.raises(TypeError, match="image: expected a MetaTensor, which knows where it lies; got Tensor"):
        in_file_space(image[0].as_tensor(), image.as_tensor())
    with pytest.raises(ValueError, match="without original_affine spatial_shape"):
        in_file_space(image[0].as_tensor(), peer("monai.data").MetaTensor(image.as_tensor()))
    with pytest.raises(ValueError, match=r"maps: expected \(40, 32, 24\), as the image; got \(24, 32, 40\)"):
        in_file_space(image[0].as_tensor().movedim(0, 2).movedim(0, 1), image)
    with pytest.raises(ValueError, match="got shape"):
        in_file_space(image[0].as_tensor(), image[None])
    with pytest.raises(ValueError, match="transforms pending"):
        in_file_space(image[0].as_tensor(), transforms.Zoom(0.5, lazy=True)(image))
