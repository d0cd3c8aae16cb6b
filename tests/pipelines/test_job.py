"""A folder and its job: what something else is asked of, what has changed since, what is not its own."""

import errno
import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from cfcam_gpu import CAM, CFCAM, pipelines
from cfcam_gpu.pipelines import Photographs, store
from cfcam_gpu.results import durable

from ..albums import small
from ..pipeline_jobs import TINY, contents, explain, images, photographs, rows


@pytest.fixture
def source(tmp_path):
    return photographs(tmp_path / "source", 10)


def test_a_job_of_which_something_else_is_asked_is_refused(source, tmp_path):
    out = tmp_path / "out"
    explain(source, out, batch_size=4)
    before = contents(out)
    other = small().eval()
    nn.init.zeros_(other[0].bias)
    wanted = replace(TINY, mean=(0.4, 0.5, 0.5))
    asked = {
        "batch_size was 4, is 8": lambda: explain(source, out, batch_size=8, shard_size=256),
        "dtype was float16, is float32": lambda: explain(source, out, batch_size=4, dtype="float32"),
        "target was None, is 3": lambda: explain(source, out, batch_size=4, target=3),
        "the model or its weights have changed": lambda: explain(source, out, batch_size=4, model=other),
        "the names of the classes have changed": lambda: explain(source, out, batch_size=4, class_names=list("abcde")),
        "the images' names, sizes or targets": lambda: pipelines.run(
            CFCAM(small().eval(), "1"), Photographs(source, wanted), out, batch_size=4
        ),
    }
    for message, again in asked.items():
        with pytest.raises(store.ChangedError, match=message):
            again()
    assert contents(out) == before
    assert explain(source, out, batch_size=4, target=3, restart=True).before == 0
    assert {row["target"] for row in rows(out)} == {3}


@pytest.mark.parametrize("change", ["gone", "new", "renamed", "longer", "other bytes"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_source_that_changed_is_noticed(source, tmp_path, change, finished):
    out = tmp_path / "out"
    begin(source, out, finished=finished)
    first = source / "00000.png"
    if change == "gone":
        first.unlink()
    elif change == "new":
        (source / "0.png").write_bytes(first.read_bytes())
    elif change == "renamed":
        first.rename(source / "0000.png")
    elif change == "longer":
        first.write_bytes(first.read_bytes() + b" ")
    else:
        data = bytearray(first.read_bytes())
        data[-30] ^= 1
        first.write_bytes(data)
    before = contents(out)
    message = {
        "gone": r"results of other images: .*00000\.png no longer in .* restart",
        "renamed": r"results of other images: .*00000\.png no longer in",
        "new": r"1 images are new behind the 10 .* append \(--append\)",
        "longer": "names, sizes or targets have changed, or how they are prepared",
        "other bytes": "files were written since",
    }[change]
    with pytest.raises(store.ChangedError, match=message):
        explain(source, out, batch_size=2, shard_size=4)
    assert contents(out) == before


@pytest.mark.parametrize("finished", [True, False])
def test_the_same_bytes_of_other_times_go_on(source, tmp_path, finished):
    """A copy, a restored one, another machine's."""
    out = tmp_path / "out"
    explain(source, tmp_path / "whole", batch_size=2, shard_size=4)
    begin(source, out, finished=finished)
    for path in source.iterdir():
        os.utime(path, (1e9, 1e9))
    assert explain(source, out, batch_size=2, shard_size=4).before == (10 if finished else 4)
    found, whole = contents(out), contents(tmp_path / "whole")
    assert found.pop("job.json") != whole.pop("job.json")
    assert found == whole
    again = json.loads((out / "job.json").read_text())["stamps"]
    explain(source, out, batch_size=2, shard_size=4)
    assert json.loads((out / "job.json").read_text())["stamps"] == again


def begin(source, out, *, finished):
    """A run of ten images in shards of four, which ends after the first shard or is done."""
    options = {"batch_size": 2, "shard_size": 4}
    if finished:
        explain(source, out, **options)
        return

    def stop(done, total):
        if done:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        explain(source, out, progress=stop, **options)
    assert len(list(out.glob("parts/*.parquet"))) == 1


def test_another_seed_is_noticed(tmp_path):
    def run(**options):
        explainer = CAM(small().eval(), "1", method="smoothgradcam++", **options)
        return pipelines.run(explainer, [images(3)], tmp_path / "out")

    run(seed=0)
    for other in ({"seed": 1}, {"noise": 0.16}):
        with pytest.raises(store.ChangedError, match="noise was"):
            run(**other)
    assert run(seed=0).before == 3


def test_other_code_with_the_same_weights_is_noticed(source, tmp_path):
    explain(source, tmp_path / "out")
    layers = small().eval()
    layers[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    with pytest.raises(store.ChangedError, match="the model's output for an image is something else now"):
        explain(source, tmp_path / "out", model=layers)


def test_another_prepare_is_noticed(tmp_path):
    explainer, x = CFCAM(small().eval(), "1"), images(6)
    for prepare, other in ((None, lambda x: x / 2), (lambda x: x / 2, lambda x: x / 3), (lambda x: x, lambda x: x + 1)):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        pipelines.run(explainer, [x], out, prepare=prepare)
        before = contents(out)
        with pytest.raises(store.ChangedError, match="what prepare, or the preparation, makes of an image"):
            pipelines.run(explainer, [x], out, prepare=other)
        assert contents(out) == before
        assert pipelines.run(explainer, [x], out, prepare=prepare).before == 6
    x[0] = 0  # shows nothing
    pipelines.run(explainer, [x], tmp_path / "black", prepare=lambda x: x * 2)
    with pytest.raises(store.ChangedError, match="what prepare, or the preparation, makes of an image"):
        pipelines.run(explainer, [x], tmp_path / "black", prepare=lambda x: x * -3)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", ["image", "target", "name", "order", "fewer"])
def test_a_stream_that_changed_is_noticed(tmp_path, change, finished):
    explainer, x = CFCAM(small().eval(), "1"), images(10)
    targets, names = [0, 1, 2, 3, 4] * 2, list("abcdefghij")
    options = {"batch_size": 2, "shard_size": 4}

    def run(*, stop=False):
        def progress(done, total):
            if stop and done >= 8:
                raise KeyError("stop")

        return pipelines.run(explainer, [(x, targets, names)], tmp_path / "out", progress=progress, **options)

    if finished:
        run()
    else:
        with pytest.raises(KeyError, match="stop"):
            run(stop=True)
    x = x.clone()
    if change == "image":
        x[5, 1, 7, 7] += 0.1  # one value of one image
    elif change == "target":
        targets[1] = 0
    elif change == "name":
        names[1] = "z"
    elif change == "order":
        x = x[[1, 0, *range(2, 10)]]
    else:
        x, targets, names = x[:3], targets[:3], names[:3]
    before = contents(tmp_path / "out")
    with pytest.raises(store.ChangedError, match=r"dataset: it has changed|is another one"):
        run()
    assert contents(tmp_path / "out") == before


def test_results_of_no_job_are_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.parquet").write_text("mine")
    for restart in (False, True):
        with pytest.raises(FileExistsError, match=r"has manifest\.parquet of no job"):
            explain(source, tmp_path / "out", restart=restart)
    assert contents(tmp_path / "out")["manifest.parquet"] == b"mine"


@pytest.mark.parametrize("text", ['{"format": 1, "jobs": []}', "[1]", "mine"])
def test_a_file_that_is_called_as_a_jobs_is_left_alone(source, tmp_path, text):
    out = tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    (out / "job.json").write_text(text)
    (out / "overlays" / "notes.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(FileExistsError, match=r"has overlays, job\.json of no job"):
            explain(source, out, restart=restart)
    assert contents(out) == {"job.json": text.encode(), "overlays/notes.txt": b"mine", "job.lock": b""}


@pytest.mark.parametrize("length", [0, 50])
def test_a_jobs_file_that_is_cut_off_is_refused_with_the_way_out(source, tmp_path, length):
    out = tmp_path / "out"
    explain(source, out)
    (out / "job.json").write_bytes((out / "job.json").read_bytes()[:length])
    before = contents(out)
    for restart in (False, True):
        with pytest.raises(FileExistsError, match=r"of which job\.json is empty or cut off.*: put a whole copy in its"):
            explain(source, out, restart=restart)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["example.safetensors", "order.parquet"])
@pytest.mark.parametrize("length", [0, 50])
def test_a_file_of_the_job_that_is_cut_off_is_refused_with_the_way_out(source, tmp_path, name, length):
    out = tmp_path / "out"
    explain(source, out)
    (out / name).write_bytes((out / name).read_bytes()[:length])
    with pytest.raises(store.ChangedError, match=rf"{name} is damaged .*restart"):
        explain(source, out)
    assert explain(source, out, restart=True).images == 10


def test_what_is_no_data_set_is_refused_with_what_would_be(tmp_path):
    with pytest.raises(TypeError, match=r"dataset: expected an iterable, or pipelines\.Photographs"):
        pipelines.run(CFCAM(small().eval(), "1"), "photographs", tmp_path / "out")
    with pytest.raises(ValueError, match="append: expected it without restart"):
        pipelines.run(CFCAM(small().eval(), "1"), [images(1)], tmp_path / "out", append=True, restart=True)
    assert pipelines.run(CFCAM(small().eval(), "1"), [images(1)], tmp_path / "out", target=np.int64(2)).failed == 0


def test_a_restart_leaves_what_is_not_its_own(source, tmp_path):
    out = tmp_path / "out"
    explain(source, out)
    (out / "notes.txt").write_text("mine")
    explain(source, out, target=1, restart=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_two_runs_of_one_process_do_not_write_to_one_folder(tmp_path):
    explainer, x, said = CFCAM(small().eval(), "1"), images(8), []

    def other():
        try:
            pipelines.run(explainer, [x], tmp_path / "out", target=2, restart=True)
        except FileExistsError as error:
            said.append(str(error))

    def progress(done, total):
        if done == 4:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    pipelines.run(explainer, [x], tmp_path / "out", batch_size=2, shard_size=2, progress=progress)
    assert len(said) == 1
    assert "another run of this process is writing to" in said[0]
    pipelines.run(explainer, [x], tmp_path / "whole", batch_size=2, shard_size=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_that_another_one_makes_meanwhile_is_no_error(tmp_path, monkeypatch):
    make = os.mkdir

    def late(path, *args):
        make(path, *args)
        make(path, *args)  # the other one was first

    monkeypatch.setattr(durable.os, "mkdir", late)
    assert durable.folder(tmp_path / "a" / "b").is_dir()


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*zarr\.json'"):
        durable.write(tmp_path / "zarr.json", b"data")
