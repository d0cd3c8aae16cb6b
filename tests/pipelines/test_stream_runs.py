"""Runs of what is no folder of photographs: dicts, volumes and signals, other methods, loaders that change."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from cfcam_gpu import CAM, CFCAM, pipelines

from ..albums import small
from ..pipeline_jobs import contents, errors, images, maps, rows

VOLUMES = nn.Sequential(nn.Conv3d(1, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3))
SIGNALS = nn.Sequential(nn.Conv1d(2, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3))


class Dicts(torch.utils.data.Dataset):
    """As data sets of Hugging Face and MONAI give them."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i):
        return {name: values[i] for name, values in self.columns.items()}


def explainer(**options):
    return CFCAM(small().eval(), "1", **options)


def test_dicts_of_a_loader(tmp_path):
    x = images(5)
    loader = DataLoader(Dicts(pixel_values=x, labels=[1, 2, -1, 4, 0], id=[f"patient {i}" for i in range(5)]), 2)
    pipelines.run(explainer(), loader, tmp_path / "out", batch_size=3)
    found = rows(tmp_path / "out")
    assert [row["source"] for row in found] == [f"patient {i}" for i in range(5)]
    assert [row["target"] for row in found] == [1, 2, found[2]["predicted"], 4, 0]
    pipelines.run(explainer(), [(x, [1, 2, None, 4, 0])], tmp_path / "tensors", batch_size=3)
    np.testing.assert_array_equal(maps(tmp_path / "out")[:], maps(tmp_path / "tensors")[:])


def named(names):
    model = small().eval()
    model.class_names = names
    return CFCAM(model, "1")


def test_targets_by_the_explainers_names(tmp_path):
    x, names = images(3), ["cat", "dog", "cow", "hen", "ape"]
    for folder, options in (("given", {"class_names": names}), ("own", {})):
        explain = explainer(class_names=names) if folder == "given" else named(names)
        assert pipelines.run(explain, [(x, ["dog", None, "Ape"])], tmp_path / folder, **options).failed == 0
        found = rows(tmp_path / folder)
        assert [row["target"] for row in found] == [1, found[1]["predicted"], 4]
        assert [row["class"] for row in found] == ["dog", names[found[1]["predicted"]], "ape"]
        np.testing.assert_array_equal(maps(tmp_path / folder)[:], maps(tmp_path / "given")[:])
    pipelines.run(named(names), [x], tmp_path / "all", target="cow")
    assert [row["class"] for row in rows(tmp_path / "all")] == ["cow"] * 3


def test_a_models_names_of_other_classes_are_written_nowhere(tmp_path):
    x, explain = images(2), named(["cat", "dog"])
    for options in ({"target": "dog"}, {"target": None}):
        with pytest.raises(ValueError, match="class_names: expected 5, one for each class; the model's own are 2"):
            pipelines.run(explain, [x], tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
    pipelines.run(explain, [x], tmp_path / "out", target="predicted")
    assert all(row["class"] == f"class {row['target']}" for row in rows(tmp_path / "out"))


@pytest.mark.parametrize(("model", "shape"), [(VOLUMES, (1, 8, 12, 16)), (SIGNALS, (2, 24))])
def test_volumes_and_signals(tmp_path, model, shape):
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    explain = CFCAM(model.eval(), "1")
    wanted = torch.cat([explain(part).maps for part in x.split(2)])
    x[3].view(-1)[0] = torch.nan
    options = {"batch_size": 2, "dtype": "float32", "spatial_dims": len(shape) - 1}
    summary = pipelines.run(explain, DataLoader(TensorDataset(x), 3), tmp_path / "out", **options)
    assert (summary.images, summary.failed) == (5, 1)
    found = maps(tmp_path / "out")
    assert found.shape == (5, *shape[1:])
    good = [0, 1, 2, 4]
    np.testing.assert_array_equal(found[:][good], wanted[good])
    assert np.isnan(found[3]).all()
    sizes = {
        "width": shape[-1],
        "height": shape[-2] if len(shape) > 2 else None,
        "depth": shape[1] if len(shape) == 4 else None,
    }
    for row in rows(tmp_path / "out"):
        assert {name: row[name] for name in sizes} == sizes
    assert pipelines.run(explain, list(x), tmp_path / "out", **options).before == 5


def test_volumes_are_refused_where_their_axes_are_not_named(tmp_path):
    with pytest.raises(TypeError, match=r"dataset: .* for spatial_dims=2; got shape \(2, 1, 8, 12, 16\)"):
        pipelines.run(CFCAM(VOLUMES.eval(), "1"), [torch.rand(2, 1, 8, 12, 16)], tmp_path / "out")
    with pytest.raises(ValueError, match=r"convolution works on 3 axes: spatial_dims=3\?"):
        pipelines.run(CFCAM(VOLUMES.eval(), "1"), [torch.rand(1, 8, 12, 16)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"method": "layercam"}, {"augment": "flip"}, {"smooth": 1}, {"method": "cfcam"}])
def test_methods_and_looks(tmp_path, options):
    x, explain = images(5), CAM(small().eval(), "1", **options)
    pipelines.run(explain, [x], tmp_path / "out", batch_size=2, dtype="float32")
    wanted = torch.cat([explain(part).maps for part in x.split(2)])
    np.testing.assert_array_equal(maps(tmp_path / "out")[:], wanted)


def test_where_prepare_resizes_one_bad_image_fails_alone(tmp_path):
    def prepare(x):
        return functional.interpolate(x, size=32)

    x = images(5)[..., :20, :20]
    pipelines.run(explainer(), [x], tmp_path / "good", prepare=prepare, batch_size=2)
    for bad in ([0], [3], [2, 3], [0, 1]):
        spoilt, out = x.clone(), tmp_path / str(bad)
        spoilt[bad, 0, 0, 0] = torch.nan
        assert pipelines.run(explainer(), [spoilt], out, prepare=prepare, batch_size=2).failed == len(bad)
        assert maps(out).shape == (5, 32, 32)
        rest = [i for i in range(5) if i not in bad]
        np.testing.assert_array_equal(maps(out)[:][rest], maps(tmp_path / "good")[:][rest])


@pytest.mark.parametrize("x", [images(64).double(), (images(64) * 255).byte(), images(64)[:, :1]])
def test_what_is_wrong_with_all_images_is_found_before_they_are_explained(tmp_path, x):
    model, calls = small().eval(), []
    model.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"dataset: .*every image fails"):
        pipelines.run(CFCAM(model, "1"), [x] * 4, tmp_path / "out")
    assert sum(calls) < 20
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_their_rows_error(tmp_path, value):
    class Spoilt(nn.Module):
        def forward(self, logits):
            return torch.cat([logits[:, :1] * value, logits[:, 1:]], dim=1)

    model = nn.Sequential(*small(), Spoilt()).eval()
    for target in (None, 2):
        out = tmp_path / str(target)
        assert pipelines.run(CFCAM(model, "1"), [images(2)], out, target=target).failed == 2
        assert all("logits: expected finite numbers" in error for error in errors(out).values())


def interrupted(dataset, out, after, **options):
    """A run that ends after so many images."""

    def stop(done, total):
        if done == after:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        pipelines.run(explainer(), dataset, out, batch_size=2, shard_size=2, progress=stop, **options)


def test_a_loader_whose_order_changes_is_noticed(tmp_path):
    x = images(8)
    interrupted([x], tmp_path / "out", 4)
    with pytest.raises(pipelines.ChangedError):
        pipelines.run(explainer(), [x.roll(2, 0)], tmp_path / "out", batch_size=2, shard_size=2)
    swapped = torch.cat([x[:2], x[2:4].flip(0), x[4:]])  # the first image is the same
    with pytest.raises(pipelines.ChangedError, match="shard 1 are not those that were explained, or come in another"):
        pipelines.run(explainer(), [swapped], tmp_path / "out", batch_size=2, shard_size=2)
    pipelines.run(explainer(), [x], tmp_path / "out", batch_size=2, shard_size=2)
    pipelines.run(explainer(), [x], tmp_path / "whole", batch_size=2, shard_size=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_loader_that_shuffles_is_refused_before_anything_is_written(tmp_path):
    data = TensorDataset(images(6))
    loader = DataLoader(data, sampler=SubsetRandomSampler(range(4)))
    with pytest.raises(ValueError, match="SubsetRandomSampler, which shuffles"):
        pipelines.run(explainer(), loader, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_components_are_in_the_manifest(tmp_path):
    x, explain = images(3), explainer()
    x[1, 0, 0, 0] = torch.nan
    pipelines.run(explain, [x], tmp_path / "out", components=2)
    found = rows(tmp_path / "out")
    assert found[1]["components"] is None
    for part in found[0]["components"], found[2]["components"]:
        assert sorted(channel for group in part for channel in group["channels"]) == list(range(8))
        assert part[-1]["name"] == "rest"
