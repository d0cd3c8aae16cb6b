"""The table of docs/slides.md, from the record of `bench.slides`."""

from __future__ import annotations

from collections.abc import Iterator

from .cost_tables import RESULTS, markdown, recorded

#: What was promised: of the bare explainer's throughput, and of memory in MiB.
KEPT, MEMORY = 0.85, 2048


def costs() -> Iterator[str]:
    """Throughput beside the bare explainer's, and the memory of a large slide."""
    if not list(RESULTS.glob("*-cores-slides.json")):
        return iter(["Not measured yet: `make bench-slides`."])
    record = recorded("slides")
    speed, memory = record["throughput"], record["memory"]
    per_second, kept, side = speed["tiles_per_second"], speed["kept"]["median"], memory["settings"]["side"]
    rows = [
        [
            f"tiles a second, {speed['model']}: the whole command / the bare explainer on ready tiles",
            f"{per_second['slide']['median']:.1f} / {per_second['bare']['median']:.1f}",
            f"at least {KEPT}: {kept:.2f}, {'met' if kept >= KEPT else '**not met**'}",
        ],
    ]
    for model, found in memory["networks"].items():
        peak, alone = found["peak_mib"]["with_readers"], found["peak_mib"]["process"]
        name = "a network of two channels" if ":" in model else model
        rows.append(
            [
                f"memory, {name}: {side:,} x {side:,} pixels, {found['tiles']:,} tiles of {found['mpp']:g} "
                f"micrometres a pixel, in {found['seconds']:.0f} s",
                f"{peak:,.0f} MiB with the readers, {alone:,.0f} MiB without",
                f"at most {MEMORY:,} MiB: {'met' if peak <= MEMORY else '**not met**'}",
            ]
        )
    return markdown(["", "measured", "promised"], rows)
