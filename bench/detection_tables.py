"""The tables of docs/detection.md, from the record of `bench.detections`."""

from __future__ import annotations

from collections.abc import Iterator

from .cost_tables import markdown, recorded


def costs() -> Iterator[str]:
    """Ten boxes over one, of each family; a bar that is not met is said."""
    record = recorded("detections")
    limit = record["bar"]["limit"]
    rows = []
    for name, found in record["cells"].items():
        times, ratio = found["latency_ms"], found["ratios"]["ten boxes / one box"]["median"]
        gate = found["gate"]
        assert gate["passed"], name
        verdict = "met" if found["met"] else "**not met**"
        rows.append([name, f"{times['one box']['median']:,.0f}", f"{ratio:.2f}", f"at most {limit}: {verdict}"])
    return markdown(["", "one box, ms", "ten boxes / one box", "bar"], rows)


def localisation() -> Iterator[str]:
    """The share of a map in its box, and how often its peak is there, in percent."""
    found = recorded("detections")["localisation"]["maps"]
    rows = [
        [name, f"{100 * figures['energy_in_box']:.1f}", f"{100 * figures['pointing_game']:.1f}"]
        for name, figures in found.items()
    ]
    return markdown(["", "energy in box", "pointing game"], rows)
