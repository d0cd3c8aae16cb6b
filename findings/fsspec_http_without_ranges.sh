#!/usr/bin/env bash
# fsspec gives a whole file where a part was asked for, if the web server answers without parts, as HTTP lets it and as
# Python's own http.server does: cat_file(url, 100, 110), cat_ranges and a reference to a part, as kerchunk writes them.
#
# Expected: bytes 100 to 110, since start and end are documented as those of a slice; or an error, as open() raises when
# it is read from the middle.
#
# It hurts whoever reads members of tars, row groups or chunks out of large remote files by their places: the bytes
# begin at the start of the file, and a decoder that ignores what follows an image decodes another image.
#
# cfcam_gpu compares how many bytes came with how many it asked for (cfcam_gpu/sources/remote.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install fsspec==2026.9.0 aiohttp==3.14.5

cd "$folder"
mkdir files
venv/bin/python -W ignore - <<'PYTHON'
import functools
import http.server
import sys
import threading
from pathlib import Path

import fsspec

print("fsspec", fsspec.__version__)
content = bytes(range(200))
Path("files/a.bin").write_bytes(content)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="files"))
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/a.bin"
web, memory = fsspec.filesystem("http"), fsspec.filesystem("memory")
memory.pipe("/a.bin", content)


def from_middle(system, path):
    with system.open(path, block_size=16) as file:
        file.seek(100)
        return file.read(10)


def by_reference(where):
    kind = where.partition(":")[0]
    return fsspec.filesystem("reference", fo={"part": [where, 100, 10]}, remote_protocol=kind).cat_file("part")


def outcome(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__


ways = {
    "cat_file": lambda system, path: system.cat_file(path, 100, 110),
    "cat_ranges": lambda system, path: system.cat_ranges([path], [100], [110])[0],
    "a reference": lambda system, path: by_reference(path),
    "open": from_middle,
}
seen = {name: outcome(lambda way=way: way(web, url)) for name, way in ways.items()}
others = {name: outcome(lambda way=way: way(memory, "memory://a.bin")) for name, way in ways.items()}
server.shutdown()
print("expected: 10 bytes, the first of them 100, as from memory; or an error")
for name, found in seen.items():
    told = found if isinstance(found, str) else f"{len(found)} bytes, the first of them {found[0]}"
    print(f"seen:     {name}: {told}; from memory as expected: {others[name] == content[100:110]}")
as_described = list(seen.values()) == [content, content, content, "ValueError"]
as_described &= all(found == content[100:110] for found in others.values())
sys.exit(None if as_described else "this has changed")
PYTHON
