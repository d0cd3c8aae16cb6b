"""The table of docs/slides.md, from the record of `bench.slides`."""

from __future__ import annotations

from collections.abc import Iterator

from .cost_tables import markdown, recorded

#: What was promised: of the bare explainer's throughput, and of memory in MiB.
KEPT, MEMORY = 0.85, 2048


def costs() -> Iterator[str]:
    """Throughput beside the bare explainer's, and the memory of a large slide."""
    record = recorded("slides")
    speed, memory = record["throughput"], record["memory"]
    per_second, kept = speed["tiles_per_second"], speed["kept"]["median"]
    peak, side = memory["peak_mib"]["with_readers"], memory["settings"]["side"]
    rows = [
        [
            f"tiles a second, {speed['model']}: the whole command / the bare explainer on ready tiles",
            f"{per_second['slide']['median']:.1f} / {per_second['bare']['median']:.1f}",
            f"at least {KEPT}: {kept:.2f}, {'met' if kept >= KEPT else '**not met**'}",
        ],
        [
            f"memory with {side:,} x {side:,} pixels, {memory['tiles']:,} tiles, in {memory['seconds']:.0f} s",
            f"{peak:,.0f} MiB with the readers, {memory['peak_mib']['process']:,.0f} MiB without",
            f"at most {MEMORY:,} MiB: {'met' if peak <= MEMORY else '**not met**'}",
        ],
    ]
    return markdown(["", "measured", "promised"], rows)
