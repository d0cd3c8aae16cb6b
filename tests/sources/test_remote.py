"""Sources at addresses: a web server of this machine, and fsspec's memory."""

import functools
import gzip
import http.server
import os
import sys
import threading
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from cfcam_gpu.pipelines import Photographs
from cfcam_gpu.sources import remote

from ..pipeline_jobs import TINY
from ..source_images import archive, picture, seen


class Server(http.server.SimpleHTTPRequestHandler):
    """Gives parts of files, as Python's own does not; what is called slow it never gives."""

    parts = True

    def do_GET(self):
        if "slow" in self.path:
            self.server.ended.wait(20)
            return None
        asked = self.headers.get("Range", "")
        if not (self.parts and asked.startswith("bytes=")):
            return super().do_GET()
        first, last = asked.removeprefix("bytes=").split("-")
        with open(self.translate_path(self.path), "rb") as file:
            data = file.read()
        part = data[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)
        self.server.given.append(len(part))
        return None

    def log_message(self, *args):
        pass


class Listening(http.server.ThreadingHTTPServer):
    request_queue_size = 100


@pytest.fixture
def web(tmp_path):
    """The address of a folder `web` of a server that is up."""
    (tmp_path / "web").mkdir()
    with Listening(("127.0.0.1", 0), functools.partial(Server, directory=tmp_path / "web")) as server:
        server.ended, server.given, server.folder = threading.Event(), [], tmp_path / "web"
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def fill(folder):
    """Images, a tar, a packed one and a Parquet file."""
    for seed in range(4):
        (folder / "photos" / "b").mkdir(parents=True, exist_ok=True)
        (folder / "photos" / ("b" if seed > 1 else "") / f"{seed}.png").write_bytes(picture(seed))
    (folder / "photos" / "notes.txt").write_text("x")
    members = [(f"{b}.{kind}", data) for b in range(3) for kind, data in (("png", picture(b)), ("cls", b"%d" % b))]
    for number in range(2):
        archive(folder / f"t-{number}.tar", members)
    archive(folder / "t.tar.gz", members, mode="w:gz")
    table = pa.table({"image": [picture(b) for b in range(3)], "target": [0, 1, 2]})
    pa.parquet.write_table(table, folder / "t.parquet", row_group_size=2)
    return folder


EXPECTED = {
    "photos": [("0.png", 0, None), ("1.png", 1, None), ("b/2.png", 2, None), ("b/3.png", 3, None)],
    "photos/": [("0.png", 0, None), ("1.png", 1, None), ("b/2.png", 2, None), ("b/3.png", 3, None)],
    "photos/**/*.png": [("0.png", 0, None), ("1.png", 1, None), ("b/2.png", 2, None), ("b/3.png", 3, None)],
    "photos/{1,0}.png": [("1.png", 1, None), ("0.png", 0, None)],
    "t-{0..1}.tar": [(f"t-{number}.tar/{b}.png", b, b) for number in range(2) for b in range(3)],
    "t-*.tar": [(f"t-{number}.tar/{b}.png", b, b) for number in range(2) for b in range(3)],
    "t.tar.gz": [(f"t.tar.gz/{b}.png", b, b) for b in range(3)],
    "t.parquet": [(f"t.parquet/{b}", b, b) for b in range(3)],
}


@pytest.mark.parametrize("source", EXPECTED)
def test_what_is_read_here_is_read_from_anywhere(tmp_path, web, memory, source):
    fill(web.folder)
    memory.put(f"{web.folder}/", "/data", recursive=True)
    expected = EXPECTED[source]
    assert seen(f"{web.folder}/{source}") == expected
    assert seen(f"memory://data/{source}") == expected
    if source != "photos/**/*.png":  # a web server's list of a folder has no folders below it
        assert seen(f"{web.address}/{source}", workers=2 * (source == "t-{0..1}.tar")) == expected


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("only", ["a.npy", "b/b.npy"]),
        ("only/*", ["a.npy", "b/b.npy"]),
        ("only/a.npy", ["a.npy"]),
        ("beside", ["a.png"]),
        ("beside/*", ["a.png"]),
        ("beside/*.npy", ["labels.npy"]),
    ],
)
def test_arrays_are_taken_where_there_is_nothing_else_or_they_are_named(tmp_path, memory, source, found):
    for name in ("only/a.npy", "only/b/b.npy", "beside/a.png", "beside/labels.npy", "beside/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    memory.put(f"{tmp_path}/", "/data", recursive=True)
    for where in (tmp_path, "memory://data"):
        if (str(where), source) != ("memory://data", "only/*"):  # fsspec's star is of files alone
            listed = Photographs(f"{where}/{source}", TINY)
            assert [item.source.split("data/")[-1] for item in listed.items] == found
            assert any(".npy" in note for note in listed.notes) == (source in ("beside", "beside/*"))


def test_lists_and_tables_name_addresses(tmp_path, web, memory):
    fill(web.folder)
    (tmp_path / "0.png").write_bytes(picture(0))
    memory.pipe("/m.png", picture(5))
    rows = [f"{web.address}/photos/1.png,1", "0.png,2", f"{web.address}/photos/gone.png,3", "memory://m.png,"]
    (tmp_path / "a.csv").write_text("\n".join(["file,target", *rows]))
    found = seen(tmp_path / "a.csv")
    assert found == [
        (f"{web.address}/photos/1.png", 1, 1),
        ("0.png", 0, 2),
        (f"{web.address}/photos/gone.png", "does not exist", 3),
        ("memory://m.png", 5, None),
    ]
    # A list at an address has its files beside it.
    (web.folder / "list.txt").write_text("photos/1.png\nphotos/0.png\n")
    assert seen(f"{web.address}/list.txt") == [("photos/1.png", 1, None), ("photos/0.png", 0, None)]


def test_a_server_that_does_not_answer_is_an_error_of_its_image(tmp_path, web, monkeypatch):
    fill(web.folder)
    (web.folder / "slow.png").write_bytes(picture(1))
    monkeypatch.setattr(remote, "TIMEOUT", 1.0)
    names = ["slow.png", "photos/1.png", *(f"slow.png?{b}" for b in range(8))]
    (tmp_path / "list.txt").write_text("\n".join(f"{web.address}/{name}" for name in names))
    began = time.monotonic()
    found = [row[1] for row in seen(tmp_path / "list.txt", size=10)]
    assert time.monotonic() - began < 8  # nine of them, waited for together
    assert found == ["no answer within 1 seconds", 1, *["no answer within 1 seconds"] * 8]


def test_a_server_that_gives_no_parts_is_an_error_and_not_other_bytes(web, monkeypatch):
    archive(web.folder / "t-0.tar", [("0.bin", bytes(3 << 20)), ("0.png", picture(1))])
    monkeypatch.setattr(Server, "parts", False)
    with pytest.raises(OSError, match=r"its server gives .* bytes where .* of its middle are asked for"):
        seen(f"{web.address}/t-0.tar")


def test_of_a_tar_far_away_only_what_is_asked_for_is_fetched(web):
    size = 8 << 20
    archive(web.folder / "a.tar", [("0.png", picture(0)), ("0.bin", bytes(size)), ("1.png", picture(1))])
    assert [row[1] for row in seen(f"{web.address}/a.tar")] == [0, 1]
    assert sum(web.given) < size


def test_an_image_that_changed_at_its_address_is_seen(web):
    fill(web.folder)
    stamps = {Photographs(f"{web.address}/photos", TINY).stamps(4) for _ in range(2)}
    assert len(stamps) == 1
    os.utime(web.folder / "photos" / "1.png", (1, 1))
    assert Photographs(f"{web.address}/photos", TINY).stamps(4) not in stamps


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("s3://bucket/shard-{000..003}.tar", ModuleNotFoundError, r"s3://bucket/shard-000\.tar can't be read: .*s3fs"),
        ("nothing://bucket/a.tar", OSError, r"nothing://bucket/a\.tar can't be read: Protocol not known: nothing"),
        ("memory://nowhere", FileNotFoundError, "memory://nowhere does not exist, or has no files"),
        ("memory://nowhere/a.tar", FileNotFoundError, r"memory:///?nowhere/a\.tar"),
        ("http://127.0.0.1:1/a.csv", OSError, r"http://127\.0\.0\.1:1/a\.csv"),
    ],
)
def test_an_address_where_nothing_is_got_is_refused_with_it(address, error, message):
    with pytest.raises(error, match=f"source: .*{message}"):
        Photographs(address, TINY)


def test_without_fsspec_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ModuleNotFoundError, match=r"fsspec is not installed, .*; pip install 'cfcam-gpu\[remote\]'"):
        Photographs("s3://bucket/a.tar", TINY)


def test_what_is_in_this_process_is_not_read_by_another(memory):
    memory.pipe("/a/0.png", picture(0))
    with pytest.raises(ValueError, match="workers: expected 0, as memory:// is of this process alone; got 2"):
        Photographs("memory://a", TINY, workers=2)


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "t-0.tar", "t.tar.gz", "t.parquet"])
def test_an_address_may_have_a_query(web, name):
    fill(web.folder)
    (web.folder / "list.csv").write_text("file,target\nphotos/1.png,2\n")
    (web.folder / "list.csv.gz").write_bytes(gzip.compress((web.folder / "list.csv").read_bytes()))
    query = "?download=a/b.c"
    expected = [(source.replace(name, name + query), *row) for source, *row in seen(f"{web.address}/{name}")]
    assert seen(f"{web.address}/{name}{query}") == expected
    assert len(expected) == (1 if "csv" in name else 3)
