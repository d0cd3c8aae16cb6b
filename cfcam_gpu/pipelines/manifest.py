"""The manifest of a job that is done, read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.parquet"
#: How the source of a frame ends: see :class:`cfcam_gpu.scans.Source`.
_FRAME = re.compile(r"\.frame\d+$")


def failures(folder: Path, limit: int) -> list[tuple[str, str]]:
    """Sources and errors of the first images that failed."""
    found: list[tuple[str, str]] = []
    for rows in _columns(folder, "source", "error"):
        found += [(source, error) for source, error in zip(*rows) if error is not None]
        if len(found) >= limit:
            break
    return found[:limit]


def paged(folder: Path) -> int:
    """How many images are the first page, or frame, of several in their file; of DICOM each frame has a row."""
    return sum(
        count is not None and count > 1 and not _FRAME.search(source)
        for rows in _columns(folder, "source", "pages")
        for source, count in zip(*rows)
    )


def _columns(folder: Path, *names: str) -> Iterator[list[list[Any]]]:
    """Columns, some rows at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / MANIFEST) as manifest:
        for rows in manifest.iter_batches(columns=list(names)):
            yield [rows.column(name).to_pylist() for name in names]
