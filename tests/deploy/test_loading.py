"""A file that is loaded explains images as it says of itself, and refuses what it can't explain before it is played."""

import builtins
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import onnx
import pytest
import torch

from cfcam_gpu.core.finite import NotFiniteError
from cfcam_gpu.deploy import loading
from cfcam_gpu.deploy.loading import load

from . import files


def images(count, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) + 0.1


def raw(pixels, classes):
    """The raw maps that the files of these tests give."""
    seen = torch.nn.functional.avg_pool2d(pixels.mean(1).relu()[:, None], 8)[:, 0]
    return seen * (classes[:, None, None] + 1)


@pytest.fixture
def file(tmp_path):
    return lambda **fields: files.write(tmp_path / "some.onnx", **fields)


def test_a_file_gives_an_explanation(file, tmp_path):
    given = images(4)
    given[2] = -1
    explain = load(file())
    result = explain(given)
    assert torch.equal(result.empty, torch.tensor([False, False, True, False]))
    assert torch.equal(result.target, result.logits.argmax(1))
    torch.testing.assert_close(result.raw_maps, raw(given, result.target))
    maps = given.mean(1).relu()
    top = maps.amax((1, 2), keepdim=True)
    torch.testing.assert_close(result.maps, torch.where(top > 0, maps / top, 0))
    assert (result.labels, result.weights, result.eps, result.origin) == (None,) * 4
    (layer,) = result.layers
    assert (layer.name, layer.module, layer.reason) == ("features.3", None, "the last of 4 x 4")
    assert result.config == explain.config == files.description().config
    assert result.size == (32, 32)
    assert result.class_names == explain.class_names == tuple("abcde")
    assert len(result.save(tmp_path / "out", images=given)) == 9
    assert '"class": "a"' in (tmp_path / "out/explanations.jsonl").read_text()
    # The file's own maps, which are not those that would come of its raw maps.
    assert torch.equal(pickle.loads(pickle.dumps(result)).maps, result.maps)


def test_channels_are_not_known(file):
    given = images(1)
    with pytest.raises(ValueError, match="an exported file's"):
        load(file())(given).components(given)


@pytest.mark.parametrize(("count", "batch"), [(1, 4), (4, 4), (6, 4), (9, 4), (2, 1)])
def test_a_fixed_batch_takes_any_number(file, count, batch):
    given = images(count)
    named = torch.arange(count) % 5
    at_once = load(file(target="input"))(given, named)
    result = load(file(target="input", batch=batch))(given, named)
    for field in ("maps", "raw_maps", "logits", "target", "empty"):
        assert torch.equal(getattr(result, field), getattr(at_once, field)), field


def test_a_class_is_named_or_predicted(file):
    explain, given = load(file(target="input")), images(3)
    predicted = explain(given).target
    assert torch.equal(predicted, explain(given).logits.argmax(1))
    for target, wanted in (
        (2, [2, 2, 2]),
        ([4, None, 0], [4, int(predicted[1]), 0]),
        (torch.tensor([1, 2, 3], dtype=torch.int32), [1, 2, 3]),
        ("C", [2, 2, 2]),
        (["e", None, "a"], [4, int(predicted[1]), 0]),
    ):
        result = explain(given, target)
        assert result.classes == ["abcde"[index] for index in wanted]
        assert result.target.tolist() == wanted
        torch.testing.assert_close(result.raw_maps, raw(given, torch.tensor(wanted)))


def test_several_classes_have_an_axis(file):
    given, classes = images(2), torch.tensor([[0, 3, 1], [4, 2, 2]])
    result = load(file(target="input", classes=3))(given, classes)
    assert result.several
    assert torch.equal(result.target, classes)
    assert result.maps.shape == (2, 3, 32, 32)
    for t in range(3):
        torch.testing.assert_close(result.raw_maps[:, t], raw(given, classes[:, t]))


@pytest.mark.parametrize(
    ("fields", "target", "message"),
    [
        ({}, 1, "expected None, as some.onnx was exported to explain the predicted class.*--target input"),
        ({}, [None, 1], "expected None"),
        ({}, lambda logits: logits[0], "got a callable"),
        ({"target": "input"}, 5, "class 5 is out of range for 5 classes"),
        ({"target": "input"}, "cat", "no class is called 'cat'"),
        ({"target": "input", "class_names": None}, "a", "the model has no names of its classes; got 'a'"),
        ({"target": "input"}, [0, -1], "class -1 is out of range"),
        ({"target": "input"}, [[0, 1], [1, 2]], r"expected class indices \(B,\).*got \(2, 2\).*--classes"),
        ({"target": "input", "classes": 3}, None, r"expected class indices \(B, 3\).*got None"),
        ({"target": "input", "classes": 3}, [0, 1], r"got \(2,\)"),
        ({"target": "input", "classes": 3}, [[0, 1], [1, 2]], r"got \(2, 2\)"),
        ({"target": "input"}, [0], "one for each of the 2 images; got 1"),
        ({"target": "input"}, [0.5, 1.0], "integer dtype"),
    ],
)
def test_a_target_that_is_none_of_the_files_is_refused(file, fields, target, message, monkeypatch):
    explain = load(file(**fields))
    monkeypatch.setattr(explain, "_play", lambda *given: pytest.fail("the file was played"))
    with pytest.raises((TypeError, ValueError), match=message):
        explain(images(2), target)


def test_a_list_of_none_is_the_predicted_class(file):
    explain, given = load(file()), images(2)
    assert torch.equal(explain(given, [None, None]).maps, explain(given).maps)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(2, 3, 32, 31), r"expected shape \(B, 3, H, W\), \(B, 3, 32, 32\).*got \(2, 3, 32, 31\)"),
        (torch.zeros(3, 32, 32), r"give images\[None\]"),
        (torch.zeros(0, 3, 32, 32), r"got \(0, 3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "floating dtype; got torch.uint8"),
        ([1], "expected a torch tensor"),
    ],
)
def test_images_of_another_kind_are_refused(file, given, message):
    with pytest.raises((TypeError, ValueError), match=f"images: .*{message}"):
        load(file())(given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_floating_dtypes_are_converted(file, dtype):
    explain, given = load(file()), images(2).to(dtype)
    result = explain(given)
    assert torch.equal(result.maps, explain(given.float()).maps)
    assert result.maps.dtype == torch.float32


def test_memory_formats_and_gradients_make_no_difference(file):
    explain, given = load(file()), images(2)
    wanted = explain(given).maps
    assert torch.equal(explain(given.to(memory_format=torch.channels_last)).maps, wanted)
    assert torch.equal(explain(given.clone().requires_grad_()).maps, wanted)
    assert torch.equal(explain(given.flip(-1)).maps, wanted.flip(-1))


def test_an_image_that_is_not_finite_is_named(file):
    given = images(3)
    given[1, 0, 0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"images: .*; image 1 has NaN"):
        load(file())(given)


def test_clusters_that_were_not_complete_are_told_on_the_callers_line(file):
    explain, given = load(file()), images(4)
    given[2:] += 20
    with pytest.warns(UserWarning, match=r"some.onnx: the clusters of image 2, 3 were not complete") as seen:
        explain(given)
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(given[:2])


def test_a_segmentation_knows_no_class_of_the_whole_image(file):
    assert load(file(segment=2))(images(1)).target is None


def test_threads_may_share_one(file):
    explain = load(file(), threads=1)
    given = [images(3, seed) for seed in range(16)]
    wanted = [explain(some).maps for some in given]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda some: explain(some).maps, given))
    assert all(map(torch.equal, found, wanted))


def test_threads_are_those_of_torch_unless_named(file, monkeypatch):
    import onnxruntime

    seen, make = [], onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **more: seen.append(options.intra_op_num_threads) or make(path, options, **more),
    )
    path = file()
    load(path)
    load(path, threads=3)
    assert seen == [torch.get_num_threads(), 3]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"threads": 0}, ValueError, "threads: expected at least 1"),
        ({"threads": True}, TypeError, "threads: expected an int"),
        ({"device": "tpu"}, ValueError, "device: expected one of auto, cpu, cuda"),
        ({"device": "cuda"}, RuntimeError, "device: "),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_options_that_can_not_be_meant_are_refused(file, options, kind, message):
    with pytest.raises(kind, match=message):
        load(file(), **options)


def test_what_is_no_exported_file_is_refused(tmp_path, file):
    (tmp_path / "note.onnx").write_text("no model")
    (tmp_path / "note.pt2").write_text("no package")
    for name, kind, message in (
        ("note.onnx", ValueError, "onnxruntime can't load"),
        ("note.pt2", ValueError, "no package of AOTInductor's"),
        ("none.onnx", FileNotFoundError, "is not a file"),
        ("model.pth", ValueError, "expected a file .onnx or .pt2"),
    ):
        with pytest.raises(kind, match=message):
            load(tmp_path / name)
    path = file()
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    for ask in (load, loading.describe):
        with pytest.raises(ValueError, match="it has no metadata cfcam"):
            ask(path)


def test_a_graph_without_an_output_is_refused(file):
    path = file()
    model = onnx.load(path)
    kept = [output for output in model.graph.output if output.name != "converged"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
    with pytest.raises(ValueError, match="it lacks converged"):
        load(path)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_file_is_described_by_either_package(file, monkeypatch, missing):
    path, find = file(class_names=("ä", "b", "c", "d", "e")), builtins.__import__

    def lacking(name, *given):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return find(name, *given)

    monkeypatch.setattr(builtins, "__import__", lacking)
    assert loading.describe(path).class_names[0] == "ä"
    if missing == "onnxruntime":
        with pytest.raises(ImportError, match=r"pip install 'cfcam-gpu\[onnx\]'"):
            load(path)


def test_memory_that_runs_out_is_told_as_such(file, monkeypatch):
    explain = load(file())

    class Session:
        def run(self, names, feed):
            raise Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation")

    monkeypatch.setattr(explain._player, "_session", Session())
    with pytest.raises(MemoryError, match=r"some.onnx: .*bad allocation"):
        explain(images(1))
