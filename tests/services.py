"""A service on a network that is built in no time, images for it, and what its answers hold."""

import base64
import io
import socket
import threading
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import nn

from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.service.backend import Backend, Limits, Picture

from .albums import small

SMALL = Settings(model="tests.albums:small")
LIMITS = Limits(body=60_000, pixels=10_000, images=3)


def picky():
    """The small network, which a white image drives to infinity."""
    module = small()
    module.register_forward_pre_hook(lambda _, args: (args[0] / (args[0].mean((1, 2, 3), True) < 2),))
    return module


class _Unsure(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small()

    def forward(self, x):
        first = torch.where(x.mean((1, 2, 3)) > 2, torch.nan, 1.0)
        return self.inner(x) * torch.stack([first, *[torch.ones_like(first)] * 4], 1)


class _OnWhite(nn.Module):
    """Lets images pass, unless one is white."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if (x.mean((1, 2, 3)) > 2).any():
            raise self.error
        return x


def unsure():
    """The small network; a white image's first logit is NaN."""
    return _Unsure()


def raising():
    """The small network, which raises an error of its own for a white image."""
    return nn.Sequential(_OnWhite(LookupError("secret")), *small())


def raising_values():
    """The same with an error such as our own refusals are."""
    return nn.Sequential(_OnWhite(ValueError("secret")), *small())


def dying():
    """The small network, which a white image brings to what torch raises of a CUDA device that is out of order."""
    error = getattr(torch, "AcceleratorError", RuntimeError)
    return nn.Sequential(_OnWhite(error("CUDA error: an illegal memory access was encountered")), *small())


def imagenet():
    """The small network with a thousand classes, which have ImageNet's names."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*small()[:-1], nn.Linear(8, 1000))


def backend(settings=SMALL, limits=LIMITS, components=None):
    return Backend(settings, limits, components)


def application(answering, hosts=None, **options):
    """The application without Ray: each image is explained by itself."""

    async def explain(question):
        return answering.explain([question])[0]

    from cfcam_gpu.service import app  # which a process that only loads a network does without

    return app.build(answering, explain, hosts=hosts, **options)


@contextmanager
def serving(answering, **options):
    """The application behind a server of its own, in a thread, at a port of the system's choice; its address."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(answering, **options), log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def address(url):
    """The host and the port of http://HOST:PORT."""
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def picture(seed=0, *, size=(60, 40), form="PNG"):
    """An encoded image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return encoded(Image.fromarray(pixels), form)


def encoded(image, form="PNG"):
    file = io.BytesIO()
    image.save(file, format=form)
    return file.getvalue()


def expected(answering, data, target=None):
    """The library's own explanation of an encoded image."""
    pixels = answering.decode(data)[None]
    return answering.explainer(answering.model.preparation.normalize(pixels), target), pixels


def values(field):
    """The array of a map or an overlay in an answer's JSON."""
    return array(Picture(field["encoding"], field["shape"], base64.b64decode(field["data"])))


def array(picture):
    """The array of a map or an overlay in an answer."""
    data = picture.data
    found = np.frombuffer(data, "<f2") if picture.encoding == "float16" else np.asarray(Image.open(io.BytesIO(data)))
    return torch.from_numpy(found.reshape(picture.shape).copy())
