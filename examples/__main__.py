"""``python -m examples [NAME ...] [--out FOLDER]``: run some of the examples, or all, from the repository's root.

Each also runs by itself, ``python examples/NAME.py [FOLDER]``, where torchvision is installed for the torch that is
there; here any torchvision will do.
"""

import argparse
import runpy
import sys
from pathlib import Path

from bench.torchvision_shim import import_torchvision

FOLDER = Path(__file__).parent
HELPERS = ("__main__", "onnx_only", "photographs", "plain_nms", "service_client")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


def run(name: str, out: Path) -> dict[str, object]:
    """Run an example; returns its variables."""
    given = sys.argv
    sys.argv = [name, str(out)]
    sys.path.insert(0, str(FOLDER))
    try:
        return runpy.run_path(str(FOLDER / f"{name}.py"))
    finally:
        sys.path.remove(str(FOLDER))
        sys.argv = given


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples", description="Run examples.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, default=Path("out/examples"), help="folder for the pictures")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no example {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    import_torchvision()
    for name in options.names or NAMES:
        run(name, options.out)
