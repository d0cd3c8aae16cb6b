"""Batches of images that are on a GPU: their digests and the numbers of their maps are made there."""

import pytest
import torch

from cfcam_gpu.pipelines.map_summaries import summarised
from cfcam_gpu.pipelines.stream import batches_of, checksums

pytestmark = pytest.mark.gpu


def test_checksums_are_the_cpus():
    images = torch.rand(3, 3, 31, 33)
    assert torch.equal(checksums(images.cuda()).cpu(), checksums(images))
    (one,), (other,) = (list(batches_of([x.cuda()], 3)) for x in (images, images.flip(0)))
    assert one.digest != other.digest


def test_a_summary_does_not_make_the_host_wait():
    maps = torch.rand(4, 32, 32)
    wanted, on_gpu = summarised(maps), maps.cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = summarised(on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)
