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
    """Milliseconds of an image, and what each ratio was promised to be."""
    record = recorded("deployment")
    batch = record["settings"]["batch"]
    rows = []
    for kind, network, pair, limit in TIMES:
        found = record["networks"].get(network, {}).get(kind)
        if found is None:
            continue
        of, over = pair.split(" / ")
        ratio = found["ratios"][pair]["median"]
        times = [f"{found['latency_ms'][name]['median'] / batch:.1f}" for name in (of, over)]
        rows.append(
            [network, _TITLES[pair], *times, f"{ratio:.2f}", f"{limit:g}", "met" if ratio <= limit else "**not met**"]
        )
    return markdown(["", "", "ms an image", "over", "ratio", "at most", ""], rows)


_TITLES = {
    "file / file's bare forward": "the file in ONNX Runtime / its bare forward there",
    "file / library": "the file in ONNX Runtime / the library's own call",
    "package / compiled forward": "AOTInductor's package / its compiled forward",
}
