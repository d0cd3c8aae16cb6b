"""A worker that dies once, in a module of its own: whatever it imports, a worker imports, too."""

import os
import signal
from pathlib import Path

from cfcam_gpu.pipelines.ray import Explain


class Deadly(Explain):
    """Dies of the batch with image 4, once."""

    def __init__(self, marker, **options):
        super().__init__(**options)
        self.marker = Path(marker)

    def __call__(self, batch):
        if 4 in batch["id"] and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)
