"""The tables of docs/deploying.md, from the record of `bench.deployment`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .cost_tables import markdown, recorded

#: What was promised: of parity, of the file and its export, and of times.
MEDIAN, P95, WORST, CORRELATION = 5e-6, 1e-4, 2e-3, 0.99999
OVER_BARE, SECONDS = 1.15, 60
TIMES = [
    ("cost", "EfficientNet-Lite0", "file / file's bare forward", 1.8),
    ("cost", "ResNet-50", "file / file's bare forward", 1.4),
    ("cost", "EfficientNet-Lite0", "file / library", 0.4),
    ("cost_of_package", "EfficientNet-Lite0", "package / compiled forward", 1.3),
    ("cost_of_package", "ResNet-50", "package / compiled forward", 1.3),
]


def parity() -> Iterator[str]:
    """Each file, of the batch at which it is furthest off."""
    rows = []
    for network, one in recorded("deployment")["networks"].items():
        for variant, found in one["parity"].items():
            figures = worst_of(found)
            rows.append(
                [
                    network,
                    variant,
                    ", ".join(found["batches"]),
                    *(f"{figures[name]:.1e}" for name in ("median", "p95", "worst")),
                    f"{1 - figures['correlation']:.0e}",
                    f"{found['over_bare']:.2f}",
                    f"{found['export_seconds']:.0f}",
                ]
            )
    head = ["", "file", "batches", "median", "95%", "worst", "1 - correlation", "size / bare file", "export, s"]
    return markdown(head, rows)


def worst_of(found: dict[str, Any]) -> dict[str, float]:
    """Of each figure of a file the worst over its batches."""
    batches = list(found["batches"].values())
    largest = {name: max(batch[name] for batch in batches) for name in ("median", "p95", "worst")}
    return largest | {"correlation": min(batch["correlation"] for batch in batches)}


def costs() -> Iterator[str]:
    """Milliseconds of an image by one thread, its ratio, what that was promised to be, and the ratio by all threads."""
    record = recorded("deployment")
    batch, most = record["settings"]["batch"], str(record["settings"]["threads"])
    rows = []
    for kind, network, pair, limit in TIMES:
        found = record["networks"][network][kind]
        of, over = pair.split(" / ")
        times = [f"{found['1']['latency_ms'][name]['median'] / batch:.1f}" for name in (of, over)]
        one, many = (found[threads]["ratios"][pair]["median"] for threads in ("1", most))
        met = "met" if one <= limit else "**not met**"
        rows.append([network, _TITLES[pair], *times, f"{one:.2f}", f"{limit:g}", met, f"{many:.2f}"])
    return markdown(["", "", "ms an image", "over", "ratio", "at most", "", f"ratio, {most} threads"], rows)


_TITLES = {
    "file / file's bare forward": "the file in ONNX Runtime / its bare forward there",
    "file / library": "the file in ONNX Runtime / the library's own call",
    "package / compiled forward": "AOTInductor's package / its compiled forward",
}
