"""``python tests/oldest.py``: constraints for pip, the oldest release of each library that pyproject.toml admits.

Of what a user installs, not of what tests it. torch is left out: `make test-oldest` names a build of it.
"""

import re
import tomllib
from pathlib import Path

EXTRAS = ("demo", "medical", "metrics", "bench", "pipelines", "report", "slides")


def oldest(text):
    project = tomllib.loads(text)["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in wanted)
    return [f"{name}=={release}" for name, release in bounds.items() if name != "torch"]


if __name__ == "__main__":
    print("\n".join(oldest((Path(__file__).parents[1] / "pyproject.toml").read_text())))
