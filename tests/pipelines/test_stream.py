"""Batches of whatever yields images: what is taken for targets and names, what is refused, and what has changed."""

import logging
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import torch

from cfcam_gpu.pipelines import ChangedError
from cfcam_gpu.pipelines.store import combined
from cfcam_gpu.pipelines.stream import batches_of, checksums, unseen

from ..pipeline_jobs import images


def only(items, size=4, **options):
    """The one batch of a few items."""
    (batch,) = batches_of(items, size, **options)
    return batch


class Meta(torch.Tensor):
    """A tensor that knows its file, as MONAI's do."""


def with_meta(tensor, names):
    found = tensor.as_subclass(Meta)
    found.meta = {"filename_or_obj": names}
    return found


@pytest.mark.parametrize(
    ("given", "targets"),
    [
        ([3, None, -1, 0], [3, None, None, 0]),
        ([3.0, float("nan"), np.float32(1), np.int64(2)], [3, None, 1, 2]),
        (torch.tensor([3, -1, 0, 1]), [3, None, 0, 1]),
        (torch.tensor([[3], [2], [0], [1]]), [3, 2, 0, 1]),
        (np.array([3.0, np.nan, 0.0, 1.0]), [3, None, 0, 1]),
        ([torch.tensor(3), torch.tensor([2]), np.array(1), None], [3, 2, 1, None]),
        (None, [None] * 4),
    ],
)
def test_what_is_a_target(given, targets):
    batch = only([(images(4), given)])
    assert batch.targets == targets
    assert all(target is None or type(target) is int for target in batch.targets)
    each = [(image, target) for image, target in zip(images(4), given if given is not None else targets)]
    assert only(each).targets == targets


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.eye(4), r"expected a class index for each image; got shape \(4,\) each.*argmax"),
        ([0, 1, 2, 2.5], "got 2.5, which is no integer"),
        ([0, 1, 2, "cat"], "got 'cat'"),
        ([0, 1, 2, -2], "got -2"),
        ([0, 1, 2, True], "got True"),
        ([0, 1, 2, float("inf")], "inf"),
        (torch.zeros(4, 1, 8, 8), r"got shape \(1, 8, 8\) each"),
        ([0, 1, 2], "expected 4 targets, one for each image of the batch; got 3"),
        (7, "expected 4 targets, one for each image of the batch; got int"),
        (torch.tensor(7), "expected 4 targets, one for each image of the batch; got a single one"),
        ({"class": [1] * 4}, "expected 4 targets, one for each image of the batch; got dict"),
    ],
)
def test_what_is_none_is_refused_unless_no_target_is_asked_for(given, message):
    with pytest.raises((TypeError, ValueError), match=f"dataset: .*{message}"):
        only([(images(4), given)])
    assert only([(images(4), given)], targets=False).targets == [None] * 4


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (torch.tensor([100, 101, 102]), ["100", "101", "102"]),
        (list(torch.tensor([100, 101, 102])), ["100", "101", "102"]),
        (np.array([7, 8, 9]), ["7", "8", "9"]),
        ([np.int32(7), np.array(8), 9], ["7", "8", "9"]),
        (("a", b"b\xff", Path("c/d.png")), ["a", "b\udcff", "c/d.png"]),
        (np.array(["a", "b", "c"]), ["a", "b", "c"]),
        (None, ["0", "1", "2"]),
        (["a", None, "c"], ["a", "1", "c"]),
    ],
)
def test_what_is_a_name(given, names):
    assert only([(images(3), None, given)]).sources == names
    each = [(image, None, name) for image, name in zip(images(3), given if given is not None else [None] * 3)]
    assert only(each).sources == names


@pytest.mark.parametrize("given", [torch.arange(9).reshape(3, 3), torch.rand(3), [{"a": 1}] * 3, [True] * 3])
def test_images_are_numbered_where_what_they_have_is_no_name(given, caplog):
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        assert only([(images(3), None, given)]).sources == ["0", "1", "2"]
    assert "dataset: expected names that are text, paths or integers; got" in caplog.text


@pytest.mark.parametrize("given", ["abc", b"abc", ["a", "b"], {"a": 1, "b": 2, "c": 3}])
def test_names_for_other_images_are_refused(given):
    with pytest.raises((TypeError, ValueError), match="expected 3 names, one for each image of the batch; got"):
        only([(images(3), None, given)])


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        (("image", "label", "id"), {}),
        (("pixel_values", "labels", "path"), {}),
        (("images", "y", "name"), {}),
        (
            ("scan", "diagnosis", "patient"),
            {"image_column": "scan", "target_column": "diagnosis", "name_column": "patient"},
        ),
    ],
)
def test_dicts(kind, keys, columns):
    values = images(3), torch.tensor([2, 0, 1]), ["a", "b", "c"]
    batch = only([kind(zip(keys, values))], **columns)
    assert (batch.targets, batch.sources) == ([2, 0, 1], ["a", "b", "c"])
    assert torch.equal(batch.images, values[0])
    each = [kind(zip(keys, one)) for one in zip(*values)]
    assert only(each, **columns)[:1] == (["a", "b", "c"],)


def test_a_dict_of_images_alone():
    batch = only([{"image": images(2)}])
    assert (batch.targets, batch.sources) == ([None, None], ["0", "1"])


def test_the_file_that_monai_names():
    names = ["a.nii", "b.nii"]
    assert only([{"image": images(2), "image_meta_dict": {"filename_or_obj": names}}]).sources == names
    scan = {"scan": images(2), "scan_meta_dict": {"filename_or_obj": names}}
    assert only([scan], image_column="scan").sources == names
    for item in (with_meta(images(2), names), {"image": with_meta(images(2), names)}, (with_meta(images(2), names), 0)):
        batch = only([item], targets=False)
        assert batch.sources == names
        assert type(batch.images) is torch.Tensor
    assert only([with_meta(images(1)[0], "a.nii")]).sources == ["a.nii"]


@pytest.mark.parametrize(
    ("item", "columns", "message"),
    [
        ({"pixels": 0, "class": 1}, {}, "keys image, .*; got pixels, class. Name it: image_column=KEY"),
        ({}, {}, "got no keys"),
        (
            {"image": 0, "pixel_values": 0},
            {},
            "one image in a dict; got .* image and pixel_values. Name one: image_column='image'",
        ),
        ({"image": 0, "label": 0, "labels": 0}, {}, "one target in a dict; got the keys label and labels"),
        ({"image": 0, "id": 0, "path": 0}, {}, "one name in a dict; got the keys id and path"),
        ({"image": 0}, {"target_column": "fine"}, "target_column: expected one of the keys image; got 'fine'"),
        ({"image": [images(1)]}, {}, r"expected tensors \(C, H, W\) or \(B, C, H, W\).*got list"),
        ("photo.png", {}, "got str"),
        (images(1)[0, 0], {}, r"got shape \(32, 32\)"),
    ],
)
def test_items_that_have_no_images_are_refused(item, columns, message):
    with pytest.raises((TypeError, ValueError), match=message):
        only([item], **columns)


@pytest.mark.parametrize(
    ("dims", "shape", "size"), [(1, (3, 9), (9,)), (2, (3, 9, 8), (8, 9)), (3, (1, 9, 8, 7), (7, 8, 9))]
)
def test_signals_images_and_volumes(dims, shape, size):
    one = torch.rand(shape)
    for items in ([one, one], [torch.stack([one, one])]):
        batch = only(items, spatial_dims=dims)
        assert batch.images.shape == (2, *shape)
        assert batch.sizes == [size] * 2
    with pytest.raises(TypeError, match=f"for spatial_dims={dims}; got shape"):
        only([one[None, None]], spatial_dims=dims)


def test_batches_have_one_size_whatever_comes():
    x = images(7)
    for items in (x.split(1), x.split(2), x.split(5), [x], list(x)):
        found = list(batches_of(items, 3))
        assert [len(batch.images) for batch in found] == [3, 3, 1]
        assert [batch.index for batch in found] == [0, 3, 6]
        assert torch.equal(torch.cat([batch.images for batch in found]), x)
        assert [batch.digest for batch in found] == [batch.digest for batch in batches_of([x], 3)]


def test_items_in_the_same_memory_are_kept_apart():
    x, room = images(6), torch.empty(2, 3, 32, 32)
    found = list(batches_of((room.copy_(part) for part in x.split(2)), 3))
    assert torch.equal(torch.cat([batch.images for batch in found]), x)


def changes():
    """Each changes one thing of a batch of two images, of which a digest must tell."""
    x = images(2)
    one = x.clone()
    one[1, 2, 31, 31] += 1e-6
    flipped = x.clone()
    flipped[0, 0, 0, 0].neg_()
    flipped[0, 0, 7, 3].neg_()
    return {
        "the last value": (one, [0, 1], ["a", "b"]),
        "two signs": (flipped, [0, 1], ["a", "b"]),
        "all signs": (-x, [0, 1], ["a", "b"]),
        "the order": (x.flip(0), [0, 1], ["a", "b"]),
        "mirrored": (x.flip(3), [0, 1], ["a", "b"]),
        "dtype": (x.double(), [0, 1], ["a", "b"]),
        "shape": (x.reshape(2, 3, 16, 64), [0, 1], ["a", "b"]),
        "a target": (x, [0, 2], ["a", "b"]),
        "a name": (x, [0, 1], ["a", "c"]),
    }


@pytest.mark.parametrize("what", changes())
def test_a_digest_is_of_everything(what):
    before = (images(2), [0, 1], ["a", "b"])
    assert only([before]).digest == only([(images(2).clone(), [0, 1], ["a", "b"])]).digest
    assert only([before]).digest != only([changes()[what]]).digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_the_checksum_of_images_on_a_device_is_of_everything(dtype):
    x = (images(3) * 100).to(dtype)
    found = checksums(x)
    assert torch.equal(found, checksums(x.clone()))
    assert torch.equal(found, torch.cat([checksums(x[:1]), checksums(x[1:])]))
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(found, checksums(strided))
    for change in (lambda image: image.flip(0), lambda image: image.flip(2), lambda image: image.roll(1), torch.neg):
        assert (found != checksums(torch.stack([change(image) for image in x]))).all()
    one = x.clone()
    one[1, 2, 31, 31] += 1
    assert (found != checksums(one)).tolist() == [False, True, False]
    odd = x.reshape(3, -1)[:, 1:1000]
    assert (checksums(odd) != checksums(x.reshape(3, -1)[:, 1:999])).all()


def digests(items, size, per_shard):
    found = [batch.digest for batch in batches_of(items, size)]
    return {k: combined(found[i : i + per_shard]) for k, i in enumerate(range(0, len(found), per_shard))}


def left(items, done):
    """Indices of the batches that are left of images in batches of 2, two batches a shard."""
    return [batch.index for batch in unseen(batches_of(items, 2), done, 2)]


def test_what_is_left():
    x = images(11)
    done = digests(x, 2, 2)
    assert list(done) == [0, 1, 2]
    assert left(x, {}) == [0, 2, 4, 6, 8, 10]
    assert left(x, done) == []
    assert left(x, {0: done[0]}) == [4, 6, 8, 10]
    assert left(x, {0: done[0], 2: done[2]}) == [4, 6]
    assert left(x, {1: done[1]}) == [0, 2, 8, 10]


def test_what_has_changed():
    x = images(11)
    done = digests(x, 2, 2)
    other = x.clone()
    other[5, 1, 20, 20] += 1e-6
    with pytest.raises(
        ChangedError, match="the images of shard 1 are not those that were explained, or come in another"
    ):
        left(other, done)
    assert left(other, {0: done[0], 2: done[2]}) == [4, 6]
    with pytest.raises(ChangedError, match="the images of shard 0"):
        left(x.flip(0), done)
    with pytest.raises(ChangedError, match="it ends before the images of shard 2"):
        left(x[:8], done)
    for count in (7, 9):
        with pytest.raises(ChangedError, match="the images of shard"):
            left(x[:count], done)
    with pytest.raises(ChangedError, match="the images of shard 2"):
        left(torch.cat([x, x[:1]]), done)
    with pytest.raises(ChangedError, match="ends before the images of shard 0"):
        left([], done)


def test_a_target_may_be_a_name():
    batch = only([(images(3), ["cat", "Dog", None])], class_names=["dog", "cat"])
    assert batch.targets == [1, 0, None]
    with pytest.raises(TypeError, match="no class is called 'hen'"):
        only([(images(1), ["hen"])], class_names=["dog", "cat"])


@pytest.mark.parametrize("option", ["image_column", "target_column", "name_column"])
@pytest.mark.parametrize("item", [(images(1), [0], ["a"]), images(1)])
def test_a_key_of_what_is_no_dict_is_refused(item, option):
    with pytest.raises(ValueError, match=f"{option}: expected none, as only dicts have keys; got 'x' for a "):
        only([item], **{option: "x"})
