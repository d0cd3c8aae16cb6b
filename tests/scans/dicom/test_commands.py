"""DICOM in the commands and the service: frames as images of their own, called by UIDs, and nothing of the patient."""

import base64
import io
import json
import os
import shutil
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from starlette.testclient import TestClient

from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import loading
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.pipelines import Photographs
from cfcam_gpu.sources import instances

from ...deploy import files
from ...pipeline_jobs import TINY, rows
from ...pipeline_jobs import explain as explain_source
from ...services import LIMITS, application, backend
from ...services import SMALL as SETTINGS
from ...test_cli import SMALL, explain, lines, run
from ...test_cli_process import process
from .written import PATIENT, ROOT, dataset, encoded, placed, written

NAME = "Mustermann_Erika"
NOISE = np.random.default_rng(0).integers(0, 1000, (4, 40, 48), np.uint16)
WINDOW = {"WindowCenter": 500, "WindowWidth": 1000}


@pytest.fixture
def ward(tmp_path):
    """A folder of a slice, three frames in one file, one without a suffix, and one cut off, named by a patient.

    It has a DICOMDIR, as CDs have, which is no image and nobody's fault.
    """
    folder = tmp_path / "ward"
    written(folder / f"{NAME}.dcm", NOISE[0], number=1, **WINDOW, **placed(0))
    written(folder / f"{NAME}_cine.dcm", NOISE[1:], number=2, **WINDOW)
    written(folder / "IM0001", NOISE[1], number=3, **WINDOW)
    shutil.copy(get_testdata_file("DICOMDIR"), folder)
    (folder / f"{NAME}_cut.dcm").write_bytes(encoded(dataset(NOISE[0], number=4))[:-900])
    return folder


UIDS = [f"{ROOT}.3.1.1", *(f"{ROOT}.3.1.2.frame{n}" for n in (1, 2, 3)), f"{ROOT}.3.1.3", f"{ROOT}.3.1.4"]


def assert_nothing_of_the_patient(*texts, folder, but=()):
    """Neither in what was said, nor in a file's name, nor in a file, but for the patient's own: those of DICOM."""
    words = [word.encode() for value in PATIENT.values() for word in value.split("^")]
    for text in texts:
        assert not [word for word in words if word in text.encode()], text
    for path in folder.rglob("*"):
        assert not any(word in str(path.relative_to(folder)).encode() for word in words)
        if path.is_file() and path.suffix not in but:
            data = path.read_bytes()
            assert not [word for word in words if word in data], path


def test_each_frame_is_explained_and_called_by_its_uid(ward, tmp_path):
    out = tmp_path / "out"
    # pydicom warns of either, and quotes what it finds: this has no VRs where they should be, that has no date.
    shutil.copy(get_testdata_file("SC_rgb_jpeg.dcm"), ward / "odd.dcm")
    data = (ward / "IM0001").read_bytes()
    (ward / "IM0001").write_bytes(data.replace(PATIENT["PatientBirthDate"].encode(), b"nonsense"))
    options = ["--components", "2", "--engine", "reference"]
    with process("explain", ward, "--model", SMALL, "--out", out, *options) as running:
        said = running.communicate(timeout=120)
    assert running.returncode == 1, said
    # The one that is damaged has a header that can be read.
    assert f"failed: {UIDS[5]}: a damaged file of DICOM: its pixels end after 2,940 bytes" in said[1]
    assert not [text for text in ("nonsense", "Warning", "Expected explicit VR") if text in "".join(said)]
    found = {line["file"]: line for line in lines(out)}
    assert set(UIDS[:5]) < set(found)
    assert len(found) == 6
    assert [found[uid]["map"] for uid in UIDS[:5]] == [f"{uid}.npy" for uid in UIDS[:5]]
    one, frame = found[UIDS[0]], found[UIDS[2]]
    assert (one["study_uid"], one["series_uid"], one["sop_instance_uid"]) == (f"{ROOT}.1", f"{ROOT}.2.1", UIDS[0])
    assert (one["frame"], one["pages"], frame["frame"], frame["pages"]) == (None, 1, 2, 3)
    assert frame["sop_instance_uid"] == f"{ROOT}.3.1.2"
    assert "page 1 of" not in said[1]
    # The same frame in a file of its own gives the same map.
    np.testing.assert_array_equal(np.load(out / f"{UIDS[1]}.npy"), np.load(out / f"{UIDS[4]}.npy"))
    assert not np.array_equal(np.load(out / f"{UIDS[1]}.npy"), np.load(out / f"{UIDS[2]}.npy"))
    assert_nothing_of_the_patient(*said, folder=out, but=[".dcm"])


def test_a_window_that_is_given_is_the_one_that_is_shown(ward, tmp_path):
    whole, given = tmp_path / "whole", tmp_path / "given"
    options = ("--no-dicom", "--overwrite")
    assert explain(ward / f"{NAME}.dcm", "--out", whole, *options).exit_code == 0
    assert explain(ward / f"{NAME}.dcm", "--out", given, "--window", "499.5,999", *options).exit_code == 0
    np.testing.assert_array_equal(np.load(whole / f"{UIDS[0]}.npy"), np.load(given / f"{UIDS[0]}.npy"))
    assert explain(ward / f"{NAME}.dcm", "--out", given, "--window", "900,100", *options).exit_code == 0
    assert not np.array_equal(np.load(whole / f"{UIDS[0]}.npy"), np.load(given / f"{UIDS[0]}.npy"))
    done = explain(ward, "--out", tmp_path / "no", "--window", "40")
    assert (done.exit_code, "window: expected CENTER,WIDTH" in done.stderr) == (2, True)


def test_a_run_has_a_row_for_each_frame_and_goes_on_where_it_was(ward, tmp_path):
    (ward / "notes").write_bytes(b"no image")
    (ward / f"{NAME}_empty.dcm").touch()
    out = tmp_path / "out"
    options = ("run", ward, "--out", out, "--model", SMALL, "--batch-size", "2")
    first = run(*options)
    assert first.exit_code == 1
    found = rows(out)
    assert [row["source"] for row in found if not row["source"].startswith("unreadable")] == [
        UIDS[4],
        UIDS[0],
        *UIDS[1:4],
        UIDS[5],
    ]
    by_source = {row["source"]: row for row in found}
    assert [by_source[uid]["pages"] for uid in UIDS[:5]] == [1, 3, 3, 3, 1]
    assert "its pixels end after" in by_source[UIDS[5]]["error"]
    (lost,) = [row for row in found if row["source"].startswith("unreadable-")]
    assert lost["error"] == "not an image: the file is empty"
    # Its file's name is told on the terminal alone.
    told = f"{NAME}_empty.dcm, called {lost['source']} in the manifest: not an image: the file is empty"
    assert told in first.stderr
    assert "see the column pages" not in first.stderr
    assert_nothing_of_the_patient(first.stderr.replace(told, ""), first.stdout, folder=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(*options).exit_code == 1
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    windowed = run(*options, "--window", "40,400")
    assert (windowed.exit_code, "window was None, is [40.0, 400.0]" in windowed.stderr) == (2, True)
    written(ward / "Z.dcm", NOISE[2], number=9, **WINDOW)
    assert run(*options, "--append").exit_code == 1
    assert [row["source"] for row in rows(out)] == [*(row["source"] for row in found), f"{ROOT}.3.1.9"]


def test_a_multi_frame_file_is_read_once_for_all_of_its_frames(tmp_path, monkeypatch):
    path = written(tmp_path / "a.dcm", NOISE, **WINDOW)
    read = []
    monkeypatch.setattr(instances.Files, "read", lambda self, name, **_: read.append(name) or path.read_bytes())
    for limit in (1 << 26, 100):  # also where a file is too long to be kept
        monkeypatch.setattr("cfcam_gpu.sources.readers.WHOLE", limit)
        monkeypatch.setattr("cfcam_gpu.sources.readers.END", 50)
        found = list(Photographs(tmp_path, TINY).batches(3))
        images = np.concatenate([batch.images.numpy() for batch in found])
        for frame in range(4):
            wanted = TINY.pixels(photos.read(path, frame=frame))
            np.testing.assert_array_equal(images[frame], wanted)
    assert read == [str(path)]


@pytest.mark.parametrize("kind", ["list", "table", "tar", "tar.gz", "address"])
def test_it_is_found_in_every_kind_of_source(ward, tmp_path, monkeypatch, kind):
    (ward / f"{NAME}_cut.dcm").unlink()
    names = [f"{NAME}.dcm", f"{NAME}_cine.dcm", "IM0001"]
    monkeypatch.setattr(instances, "HEAD", 1500)  # a header that is longer is fetched whole
    if kind == "list":
        source = ward / "list.txt"
        source.write_text("\n".join(names))
    elif kind == "table":
        source = ward / "list.csv"
        source.write_text("file,target\n" + "".join(f"{name},3\n" for name in names))
    elif kind.startswith("tar"):
        source = tmp_path / f"a.{kind}"
        with tarfile.open(source, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name in names:
                tar.add(ward / name, name)
    else:
        source = f"file://{ward}/*.dcm"
    found = Photographs(source, TINY)
    assert [item.source for item in found.items] == UIDS[:4] + UIDS[4:5] * (kind != "address")
    assert {item.target for item in found.items} == {3 if kind == "table" else None}
    images = next(iter(found.batches(9)))
    assert images.errors == [None] * len(found.items)
    for index, values in enumerate(NOISE):
        wanted = photos.read(io.BytesIO(encoded(dataset(values, **WINDOW))))
        np.testing.assert_array_equal(images.images[index].numpy(), TINY.pixels(wanted))
    again = Photographs(source, TINY)
    assert again.fingerprint(len(found.items)) == found.fingerprint(len(found.items))


def test_headers_of_many_files_are_read_by_workers(tmp_path, monkeypatch):
    for number in range(9):
        written(tmp_path / f"{number}.dcm", NOISE[: 1 + number % 3], number=number + 1)
    alone = Photographs(tmp_path, TINY).items
    monkeypatch.setattr("cfcam_gpu.sources.loaders.MANY", 2)
    here, real = os.getpid(), instances._frames
    monkeypatch.setattr(
        instances, "_frames", lambda *_: pytest.fail("in this process") if os.getpid() == here else real(*_)
    )
    assert Photographs(tmp_path, TINY, workers=1).items == alone
    assert len(alone) == 18


def test_two_files_of_one_uid_are_two_images(tmp_path):
    for name in "ab":
        written(tmp_path / "in" / f"{name}.dcm", NOISE[0], **WINDOW)
    assert explain(tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    assert [line["map"] for line in lines(tmp_path / "out")] == [f"{UIDS[0]}.npy", f"{UIDS[0]}-2.npy"]
    for _ in range(2):
        assert explain_source(tmp_path / "in", tmp_path / "run").images == 2
    assert [row["source"] for row in rows(tmp_path / "run")] == [UIDS[0]] * 2


def test_exported_files_are_shown_the_window_that_is_given(tmp_path):
    file = files.write(tmp_path / "some.onnx")
    loaded = loading.load_explainer(Settings(model=str(file), window=(40.0, 400.0)))
    assert loaded.model.preparation == replace(TINY, window=(40.0, 400.0))


def test_without_pydicom_it_is_told_what_to_install(ward, tmp_path, monkeypatch):
    monkeypatch.setattr("cfcam_gpu.image_files.formats.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    message = "DICOM, for which pydicom is not installed; pip install 'cfcam-gpu[medical]'"
    done = explain(ward / f"{NAME}.dcm", "--out", tmp_path / "out", "--no-dicom")
    assert (done.exit_code, message in done.stderr) == (1, True), done.stderr
    assert {item.error for item in Photographs(ward, TINY).items} == {message}


def test_cells_of_a_table_have_the_first_frame(tmp_path):
    data = encoded(dataset(NOISE, **WINDOW))
    pq.write_table(pa.table({"image": [data]}), tmp_path / "a.parquet")
    explain_source(tmp_path / "a.parquet", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["source"], row["pages"], row["error"]) == ("a.parquet/0", 4, None)


def test_other_files_without_a_suffix_keep_their_names(tmp_path):
    (tmp_path / "notes").write_text("no image")
    Image.new("RGB", (40, 40)).save(tmp_path / "picture", "PNG")
    (tmp_path / "list.txt").write_text("notes\npicture\nnowhere")
    assert [item.source for item in Photographs(tmp_path / "list.txt", TINY).items] == ["notes", "picture", "nowhere"]


def test_the_service_explains_a_frame_by_a_window_and_tells_its_uids():
    with TestClient(application(backend())) as client:
        data = encoded(dataset(NOISE, **WINDOW))
        (first,) = client.post("/explain", content=data).json()["explanations"]
        assert (first["pages"], first["frame"], first["sop_instance_uid"]) == (4, 1, f"{ROOT}.3.1.1")
        (third,) = client.post("/explain?frame=3", content=data).json()["explanations"]
        alone = encoded(dataset(NOISE[2], **WINDOW))
        (wanted,) = client.post("/explain", content=alone).json()["explanations"]
        assert (third["frame"], wanted["frame"], wanted["study_uid"]) == (3, None, f"{ROOT}.1")
        assert third["map"] == wanted["map"] != first["map"]
        other = client.post("/explain?window=900,100", content=alone).json()["explanations"][0]
        assert other["map"] != wanted["map"]
        by_name = client.post("/explain", files={"image": ("a.dcm", alone)}, params={"window": "499.5,999"})
        assert by_name.json()["explanations"][0]["map"] == wanted["map"]
        for query, message in (
            ("frame=5", "image: frame: expected 1 to 4; got 5"),
            ("frame=0", "frame: expected a whole number from 1 to 2,147,483,647; got 0"),
            ("window=40", "window: expected CENTER,WIDTH, two numbers such as 40,400; got '40'"),
        ):
            answer = client.post(f"/explain?{query}", content=data)
            assert (answer.status_code, answer.json()["error"]) == (422, message)
        large = encoded(dataset(np.zeros((200, 200), np.uint16)))[: LIMITS.body]
        answer = client.post("/explain", content=large)
        assert (answer.status_code, answer.json()["error"]) == (
            413,
            "image: 200 x 200, more than the limit of 10,000 pixels",
        )
        said = json.dumps([first, third, answer.json()])
        assert not [word for word in PATIENT.values() if word in said]
        assert base64.b64decode(first["map"]["data"])


def test_the_window_of_a_service_holds_where_a_request_names_none():
    serving = backend(replace(SETTINGS, window=(900.0, 100.0)))
    data = encoded(dataset(NOISE[0], **WINDOW))
    wanted = serving.model.preparation.pixels(photos.read(io.BytesIO(data), window=(900, 100)))
    np.testing.assert_array_equal(serving.decode(data), wanted)
