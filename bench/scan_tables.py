"""The table of docs/volumes.md, from the record of `bench.scans`."""

from __future__ import annotations

from collections.abc import Iterator

from .cost_tables import RESULTS, markdown, recorded

#: What was measured, for people, with what it is beside.
TITLES = {
    "image_read": ("a slice of CT as RGB", "pydicom's `pixel_array`"),
    "series_read": ("a series as a volume with its place", "`pixel_array` of each file"),
    "nifti_read": ("the same as packed NIfTI", "nibabel's `get_fdata` in float32"),
    "volume_prepared": ("the volume as a model's input", ""),
    "volume_map_as_nifti": ("a map in the volume's space as packed NIfTI", ""),
    "volume_map_as_dicom": ("a map of the series as a Parametric Map", ""),
    "image_map_as_dicom": ("a slice read, and a map of it as a Parametric Map", ""),
    "image_as_four_objects": ("the same with overlay, segmentation and report", ""),
}


def costs() -> Iterator[str]:
    """Times and memory."""
    if not list(RESULTS.glob("*-cores-scans.json")):
        return iter(["Not measured yet: `make bench-scans`."])
    record = recorded("scans")
    rows = []
    for name, (title, beside) in TITLES.items():
        one = record["measured"][name]
        ratio = f"{one['ratio']['median']:.2f} of {beside}" if beside else ""
        seconds = one["seconds"]["ours"]["median"]
        peak = one["mib"]["ours"]
        rows.append([title, f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s", f"{peak:,.0f} MiB", ratio])
    return markdown(["", "time", "memory", "beside"], rows)
