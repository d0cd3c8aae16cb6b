"""A folder and its job: what something else is asked of, what has changed since, what is not its own."""

import multiprocessing
from dataclasses import replace

import pytest
from torch import nn

from cfcam_gpu import CFCAM, pipelines
from cfcam_gpu.pipelines import Photographs, store

from ..albums import small
from ..pipeline_jobs import TINY, contents, explain, photographs, rows


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
        "the images' names, sizes, times or targets": lambda: pipelines.run(
            CFCAM(small().eval(), "1"), Photographs(source, wanted), out, batch_size=4
        ),
    }
    for message, again in asked.items():
        with pytest.raises(store.ChangedError, match=message):
            again()
    assert contents(out) == before
    assert explain(source, out, batch_size=4, target=3, restart=True).before == 0
    assert {row["target"] for row in rows(out)} == {3}


@pytest.mark.parametrize("change", ["gone", "new", "renamed", "written", "touched"])
def test_a_source_that_changed_is_noticed(source, tmp_path, change):
    out = tmp_path / "out"
    explain(source, out)
    first = source / "00000.png"
    if change == "gone":
        first.unlink()
    elif change == "new":
        (source / "new.png").write_bytes(first.read_bytes())
    elif change == "renamed":
        first.rename(source / "0000.png")
    elif change == "written":
        first.write_bytes(first.read_bytes() + b" ")
    else:
        first.touch()
    with pytest.raises(store.ChangedError, match="the images' names, sizes, times or targets have changed"):
        explain(source, out)


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


def test_a_restart_leaves_what_is_not_its_own(source, tmp_path):
    out = tmp_path / "out"
    explain(source, out)
    (out / "notes.txt").write_text("mine")
    explain(source, out, target=1, restart=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_two_processes_do_not_write_to_one_folder(source, tmp_path):
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    asked = {"source": "", "shard_size": 8, "pictures": None, "restart": False}

    def other():
        try:
            with store.opened(tmp_path / "out", {}, **asked):
                writer.send("in")
        except FileExistsError as error:
            writer.send(str(error))

    with store.opened(tmp_path / "out", {}, **asked):
        process = context.Process(target=other)
        process.start()
        process.join()
    assert "another process is writing to" in reader.recv()
