"""A service and its client: two photographs, two classes and two methods; the overlays that come back are saved.

``python examples/service_client.py [FOLDER]`` starts ``cfcam-gpu serve`` on a free port, and stops it in the end;
``--url URL`` asks one that is running. It wants the package's extra "ray".
"""

from __future__ import annotations

import argparse
import base64
import io
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import skimage.data
from PIL import Image

#: Seconds that an answer may take.
PATIENCE = 60


@contextmanager
def service(*options: str) -> Iterator[str]:
    """The address of a service of our own, as long as the context lasts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cfcam_gpu", "serve", "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()  # "look at URL", once the model is loaded
            if not said.startswith("look at "):
                raise SystemExit("the service did not start; it has said why")
            yield said.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)  # what is under way is answered first


def encoded(name: str) -> bytes:
    """A photograph of scikit-image as a file would be."""
    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, "JPEG", quality=90)
    return file.getvalue()


def explain(url: str, photographs: list[str], targets: list[str], method: str) -> list[dict]:
    """The service's answer: each photograph with its own class, "" for the predicted one; all by one method."""
    answer = requests.post(
        f"{url}/explain",
        files=[("image", (f"{name}.jpg", encoded(name))) for name in photographs],
        data={"target": targets, "method": method},
        params={"map": "none", "overlay": "true"},
        timeout=PATIENCE,
    )
    if not answer.ok:
        raise SystemExit(f"{answer.status_code}: {answer.json()['error']}")
    return answer.json()["explanations"]


def ask(url: str, folder: Path) -> None:
    """Explain two photographs by the service's own method and by Grad-CAM, and save what comes back."""
    about = requests.get(f"{url}/health", timeout=PATIENCE).json()
    print(f"{about['model']} on {about['device']}; methods: {', '.join(about['methods'])}")
    second = requests.get(f"{url}/classes", timeout=PATIENCE).json()["classes"][1]
    folder.mkdir(parents=True, exist_ok=True)
    for method in (about["method"], "gradcam"):
        for found in explain(url, ["astronaut", "cat"], ["", second], method):
            path = folder / f"{Path(found['name']).stem}-{method}.png"
            path.write_bytes(base64.b64decode(found["overlay"]["data"]))
            print(f"{path}: {found['class']}, {found['probability']:.1%}" + ", no evidence" * found["empty"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ask a service for explanations.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("out/examples/service"))
    parser.add_argument("--url", help="of a service that is running")
    parser.add_argument("--model", default="lite0", help="of the service that is started")
    given = parser.parse_args()
    if given.url:
        ask(given.url.rstrip("/"), given.folder)
    else:
        with service("--model", given.model) as address:
            ask(address.rstrip("/"), given.folder)
