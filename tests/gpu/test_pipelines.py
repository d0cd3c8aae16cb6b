"""Batches of images on a GPU: their digests and the numbers of their maps, whole runs, and what they cost."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cfcam_gpu import CFCAM, engines, pipelines
from cfcam_gpu.latency import stages
from cfcam_gpu.latency.stages import cuda_meter
from cfcam_gpu.pipelines import BatchExplainer
from cfcam_gpu.pipelines.map_summaries import summarised
from cfcam_gpu.pipelines.stream import ahead, batches_of, checksums

from ..needs import module

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]


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


# Whole batches and data sets


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
        return nn.Sequential(*layers).eval()


def drawn(count):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("targets", [[1, None, 2, 4], [[0, 1], [2, 3], [4, 0], [1, 2]]], ids=["one class", "two"])
def test_a_batch_is_the_cpus_and_a_bad_image_has_its_error(device, running, targets):
    given = drawn(4)
    given[2, 0, 3, 3] = torch.nan
    options = {"dtype": torch.float32, "overlay": True}
    expected = BatchExplainer(CFCAM(small(), "1"), **options)(given, targets)
    found = BatchExplainer(CFCAM(small().to(device), "1", engine=running), **options)(given.to(device), targets)
    assert [error is None for error in found.errors] == [True, True, False, True]
    assert found.errors == expected.errors
    for field in fields(found):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(ours, torch.Tensor):
            assert ours.device == device, field.name
            if field.name == "overlays":
                assert (ours.cpu().int() - theirs.int()).abs().max() <= 1
            else:
                torch.testing.assert_close(ours.cpu(), theirs, atol=1e-3, rtol=1e-3, equal_nan=True)
    for value in vars(found.to_host()).values():
        assert not isinstance(value, torch.Tensor) or value.device.type == "cpu"


def test_batches_come_ahead_from_pinned_memory_in_their_order(device):
    """What is copied beside the work is complete when it is used."""
    given = drawn(24)
    loader = DataLoader(TensorDataset(given), 4, pin_memory=device.type == "cuda")
    came = []
    for batch in ahead(batches_of(loader, 4), device):
        assert batch.images.device == device
        came.append(batch.images.clone())
        busy = torch.randn(1024, 1024, device=device)
        for _ in range(20):
            busy = busy @ busy / 1024
    assert torch.equal(torch.cat(came).cpu(), given)


@pytest.mark.parametrize("source", ["batches on the device", "a loader of pinned memory"])
def test_a_run_of_a_data_set_is_the_cpus_and_names_its_engine(device, running, source, tmp_path):
    zarr, parquet = module("zarr", "PEERS"), module("pyarrow.parquet", "PEERS")
    given, targets = drawn(11), torch.arange(11) % 5
    given[5, 0, 0, 0] = torch.inf
    loader = DataLoader(TensorDataset(given, targets), 4, pin_memory=device.type == "cuda")
    dataset = loader if source == "a loader of pinned memory" else [(given.to(device), targets.to(device))]
    options = {"batch_size": 4, "shard_size": 8}
    pipelines.run(CFCAM(small(), "1"), loader, tmp_path / "host", dtype="float32", **options)
    explain = CFCAM(small().to(device), "1", engine=running)
    summary = pipelines.run(explain, dataset, tmp_path / "device", dtype="float32", components=2, **options)
    assert (summary.images, summary.failed) == (11, 1)
    ours, theirs = (zarr.open_array(tmp_path / name / "maps.zarr", mode="r")[:] for name in ("device", "host"))
    np.testing.assert_allclose(ours, theirs, atol=1e-3, equal_nan=True)
    asked = json.loads((tmp_path / "device" / "job.json").read_text())
    assert f'"{engines.resolve(running, device)}"' in json.dumps(asked)
    rows, wanted = (parquet.read_table(tmp_path / name / "manifest.parquet").to_pylist() for name in ("device", "host"))
    for row, other in zip(rows, wanted, strict=True):
        assert {key: row[key] for key in ("target", "predicted", "empty", "clusters", "error")} == {
            key: other[key] for key in ("target", "predicted", "empty", "clusters", "error")
        }
    again = pipelines.run(explain, dataset, tmp_path / "device", dtype="float32", components=2, **options)
    assert again.before == 11, "what is done is known again"


def test_work_on_a_gpu_is_measured_by_its_events(device):
    matrix, meter = torch.randn(2048, 2048, device=device), cuda_meter()
    assert meter.milliseconds(lambda: matrix @ matrix) > 0
    assert meter.peak_bytes(lambda: matrix @ matrix) >= matrix.numel() * 4
    measured = stages.measure(
        stages.stages(small().to(device), "1", drawn(2).to(device), "auto"), meter, warmup=1, repeats=3
    )
    assert set(measured) == {"forward", "capture", "engine", "upsample", "end_to_end"}
    assert all(one["ms"] > 0 and one["peak_mib"] >= 0 for one in measured.values())
