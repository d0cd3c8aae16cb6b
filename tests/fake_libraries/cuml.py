"""cuML as it looks to its importer: it sets CuPy's allocator for the whole process, and takes its time."""

import time

import cupy

cupy.cuda.set_allocator("RMM's")
time.sleep(0.05)
imported_on = cupy.cuda.Device().id
