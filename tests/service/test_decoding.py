"""Decoding within bounds."""

import asyncio
import ctypes
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import pytest
from PIL import Image

from cfcam_gpu.service.decoding import Budget, Decoder

from ..services import encoded

ROOT = Path(__file__).parents[2]


class Watched:
    """Work that knows how many do it at once, and how many pixels they have."""

    def __init__(self):
        self.lock, self.pixels, self.most, self.threads, self.busiest = Lock(), 0, 0, 0, 0

    def __call__(self, pixels):
        with self.lock:
            self.pixels, self.threads = self.pixels + pixels, self.threads + 1
            self.most, self.busiest = max(self.most, self.pixels), max(self.busiest, self.threads)
        time.sleep(0.02)
        with self.lock:
            self.pixels, self.threads = self.pixels - pixels, self.threads - 1
        return pixels


@pytest.mark.parametrize(
    ("threads", "sides", "most"), [(8, [10] * 20, 250), (8, [10, 15, 3, 15, 10], 250), (2, [3] * 9, 18)]
)
def test_few_pixels_are_in_flight_in_few_threads(threads, sides, most):
    work, decoder = Watched(), Decoder(threads, 250)
    images = [encoded(Image.new("1", (side, side))) for side in sides]

    async def all_of_them():
        jobs = [decoder.run(lambda side=side: work(side**2), data) for side, data in zip(sides, images)]
        return await asyncio.gather(*jobs)

    assert asyncio.run(all_of_them()) == [side**2 for side in sides]
    assert 0 < work.most <= most
    assert 1 < work.busiest <= threads
    assert decoder.budget.free == 250


def test_what_is_no_image_or_fails_gives_its_pixels_back():
    decoder = Decoder(2, 100)

    def fails():
        raise ValueError("damaged")

    for data in (b"hello", encoded(Image.new("1", (10, 10)))):
        with pytest.raises(ValueError, match="damaged"):
            asyncio.run(decoder.run(fails, data))
    assert decoder.budget.free == 100


def test_a_large_image_comes_to_its_turn():
    budget, order = Budget(100), []

    def take(pixels):
        with budget.taken(pixels):
            order.append(pixels)
            time.sleep(0.02)

    with ThreadPoolExecutor(8) as pool:
        with budget.taken(60):
            pool.submit(take, 500)  # more than there are: all of them
            time.sleep(0.05)
            small = [pool.submit(take, 40) for _ in range(4)]
            time.sleep(0.05)
            assert order == []
        for job in small:
            job.result()
    assert order == [500, 40, 40, 40, 40]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc's allocator")
def test_memory_of_large_images_comes_back():
    """In a process of its own, whose heap has no holes yet."""
    code = """
import asyncio, io, psutil
from PIL import Image
from cfcam_gpu.image_files import photos
from cfcam_gpu.service.decoding import Decoder

def encoded(side):
    file = io.BytesIO()
    Image.new("RGBA", (side, side)).save(file, "PNG", compress_level=1)
    return file.getvalue()

images = [encoded(side) for side in (2900, 2500, 3000, 2100)]
decoder = Decoder(2, 50_000_000)

async def decode():
    await asyncio.gather(*(decoder.run(lambda data=data: photos.read(io.BytesIO(data)).size, data) for data in images))

before = psutil.Process().memory_info().rss
asyncio.run(decode())
print((psutil.Process().memory_info().rss - before) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50  # MiB
