"""The photographs in two parts: one to choose constants on, *choosing*, and one for the tables alone, *reporting*.

``python -m bench.split DATA OUT`` writes the folders OUT/choosing and OUT/reporting as ``cfcam-gpu bench`` takes them,
with links to the images in DATA, a folder with a manifest.csv as that takes it and the column source. Most classes have
two composites of one cut-out object: photographs of one class, or of one source, are in the same part. Mosaics are
drawn anew, of photographs of one part each.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cfcam_gpu.evaluation.data import MANIFEST, MOSAICS, Grid, Photograph

CHOOSING, REPORTING = PARTS = ("choosing", "reporting")
#: How many mosaics of each side a part has.
COUNTS = {2: 20, 3: 10}
SEED = 0


def parts(data: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of a manifest by part: the largest groups first, each to the part that has fewer photographs then.

    A group is the classes that share a source. Where both parts have as many, the one with fewer photographs that have
    no mask takes it.
    """
    with open(data / MANIFEST, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    groups: list[tuple[set[tuple[str, str]], list[dict[str, str]]]] = []
    for row in rows:
        names = {(key, row[key]) for key in ("class_index", "source")}
        own = [row]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names |= group[0]
            own = [*group[1], *own]
        groups.append((names, own))
    taken: dict[str, list[dict[str, str]]] = {part: [] for part in PARTS}
    for _, own in sorted(groups, key=lambda group: (-len(group[1]), min(int(row["class_index"]) for row in group[1]))):
        part = min(PARTS, key=lambda name: (len(taken[name]), sum(not row["mask"] for row in taken[name])))
        taken[part] += own
    return {part: [row for row in rows if row in taken[part]] for part in PARTS}


def mosaics(photographs: Sequence[Photograph], counts: dict[int, int], name: str = "mosaic") -> list[Grid]:
    """Mosaics of distinct classes, so many of each side; none where there are too few classes. Always the same."""
    generator = random.Random(SEED)
    by_class = defaultdict(list)
    for one in photographs:
        by_class[one.class_index].append(one)
    grids: list[Grid] = []
    for side, count in counts.items():
        if len(by_class) < side * side:
            continue
        for number in range(count):
            cells = (generator.choice(by_class[i]) for i in generator.sample(sorted(by_class), side * side))
            grids.append(Grid(f"{name} {side}x{side}, {number + 1}", side, tuple(cells), len(grids)))
    return grids


def write(data: Path, out: Path) -> None:
    """Write a folder for each part.

    Raises
    ------
    OSError
        If a folder is there already, or can't be written.
    """
    for part, rows in parts(data).items():
        folder = out / part
        for row in rows:
            for file in (row["file"], row["mask"]):
                if file:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).symlink_to((data / file).resolve())
        photographs = [
            Photograph(row["file"], folder / row["file"], None, int(row["class_index"]), place)
            for place, row in enumerate(rows)
        ]
        grids = [
            {"grid": grid.n, "files_row_major": ";".join(cell.name for cell in grid.cells)}
            for grid in mosaics(photographs, COUNTS)
        ]
        for name, table in ((MANIFEST, rows), (MOSAICS, grids)):
            with open(folder / name, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(table[0]))
                writer.writeheader()
                writer.writerows(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """0; the parts are told with how many photographs they have."""
    parser = argparse.ArgumentParser(prog="python -m bench.split", description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    write(options.data, options.out)
    for part, rows in parts(options.data).items():
        print(f"{options.out / part}: {len(rows)} photographs of {len({row['class_index'] for row in rows})} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
