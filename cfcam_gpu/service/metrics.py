"""What Prometheus is told: all of it is counted where requests come in, so that there is one total of all replicas."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
#: What is measured of an image, in this order: its request's body is read; it waits for a replica; it waits for a
#: thread that decodes it, and is decoded; it waits for its batch; the batch is explained; the answer is encoded.
STAGES = ("read", "queue", "decode", "batch", "explain", "encode")
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cfcam_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "cfcam_request_seconds", "From a request's headers to its answer.", ["path"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.under_way = Gauge(
            "cfcam_requests_under_way", "Requests to /explain being read, waiting or explained.", registry=self.registry
        )
        self.queue = Gauge(
            "cfcam_queue_length", "Images that wait until a replica has a place for them.", registry=self.registry
        )
        self.images = Counter("cfcam_images", "Images that were explained.", registry=self.registry)
        self.batches = Histogram(
            "cfcam_batch_size", "Images that were explained together.", buckets=_SIZES, registry=self.registry
        )
        self.stages = Histogram(
            "cfcam_stage_seconds", "What an image, or for read its request, spent on each stage.", ["stage"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.errors = Counter(
            "cfcam_errors",
            "What went wrong without a client's fault: internal, device, replica (lost, another asked).",
            ["kind"],
            registry=self.registry,
        )
        for kind in ("internal", "device", "replica"):
            self.errors.labels(kind)
        for stage in STAGES:
            self.stages.labels(stage)

    def explained(self, seconds: Mapping[str, float], batch: int) -> None:
        """One image has its answer: what its stages took, and the size of the batch that it was the first of."""
        self.images.inc()
        for stage, value in seconds.items():
            self.stages.labels(stage).observe(value)
        if batch:
            self.batches.observe(batch)

    def text(self) -> bytes:
        """All of it in Prometheus' form."""
        return generate_latest(self.registry)
