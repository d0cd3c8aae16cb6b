"""``cfcam-gpu serve``: torch and Ray take seconds to import, so nothing here imports them before the command runs."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ..named_models.options import (
    AugmentOption,
    ChannelsOption,
    ClassesOption,
    Device,
    DeviceOption,
    EngineOption,
    LibragradOption,
    MeanOption,
    MethodOption,
    ModelAsExplained,
    Preset,
    PresetOption,
    Settings,
    SizeOption,
    SmoothOption,
    StdOption,
    WeightsAsExplained,
    WindowOption,
)
from ..photographs import terminal

if TYPE_CHECKING:
    from .deployment import Service

#: Seconds between two looks at the server.
LOOK = 5.0
_STEERING = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def serve(
    model: ModelAsExplained = "lite0",
    weights: WeightsAsExplained = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Target layer, or two, the finer one first.", show_default="chosen"),
    ] = None,
    engine: EngineOption = "auto",
    method: MethodOption = "cfcam",
    preset: PresetOption = Preset.default,
    augment: AugmentOption = None,
    smooth: SmoothOption = 0,
    libragrad: LibragradOption = None,
    window: WindowOption = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    classes: ClassesOption = None,
    components: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Name the K strongest groups of channels, too: their shares of the evidence, and their channels.",
            show_default="none",
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where it listens, with --host.", min=1, max=65535)] = 8000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name by which browsers reach the service beside those of this machine, as a proxy's; with a port "
            "unless it is http's or https's own; *.example.com is any subdomain. May be given several times.",
            show_default="none",
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, metavar="N", help="Models that work side by side, on a GPU each where there are any.")
    ] = 1,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images in one forward at most.")] = 8,
    batch_wait: Annotated[
        float, typer.Option(min=0, metavar="MS", help="Milliseconds that a batch's first image waits for more.")
    ] = 10,
    queue: Annotated[
        int, typer.Option(min=1, metavar="N", help="Requests that may wait; further ones get status 429.")
    ] = 256,
    max_body: Annotated[int, typer.Option(min=1, metavar="MIB", help="Largest body of a request.")] = 32,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=89, metavar="MILLIONS", help="Largest image, in millions of pixels.")
    ] = 50,
    max_images: Annotated[int, typer.Option(min=1, metavar="N", help="Images in one request.")] = 16,
) -> None:
    """Explain images over HTTP, on Ray Serve: POST /explain, GET /health, and a page to drop a photograph on at /.

    A cluster that RAY_ADDRESS names is used; otherwise Ray is started on this machine, on loopback. SIGINT and SIGTERM
    end the service once the requests under way are answered; SIGUSR2 puts new replicas in the places of the old ones.
    """
    from ..pipelines import ray_session

    # A handler only puts down what came: whatever came before is finished, however many come.
    came: SimpleQueue[int] = SimpleQueue()
    with terminal.refusing(), _plain_in_files():
        ray_session.prepare()
        from .backend import Limits
        from .deployment import Options, running

        settings = Settings.given(
            model,
            weights,
            layer,
            engine,
            preset,
            device,
            method=method,
            augment=augment,
            smooth=smooth,
            libragrad=libragrad,
            window=window,
            size=size,
            channels=channels,
            mean=mean,
            std=std,
            classes=classes,
        )
        options = Options(
            settings=settings.absolute(),
            limits=Limits(body=max_body * 2**20, pixels=max_pixels * 10**6, images=max_images),
            components=components,
            replicas=replicas,
            batch_size=batch_size,
            batch_wait=batch_wait / 1000,
            queue=queue,
            allowed_hosts=tuple(allowed_host or ()),
        )
        with running(options, host=host, port=port) as service:
            # Only now: Ray has set a handler of its own meanwhile. What is under way is finished, then Ray ends.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                signal.signal(number, lambda number, _: came.put(number))
            _tell(service.about, exported=settings.file is not None)
            print(f"look at {service.url}", flush=True)
            lost = _serve_until_told(service, came)
    if lost is not None:
        terminal.stop(lost, terminal.errors())


def _tell(about: dict[str, Any], *, exported: bool) -> None:
    """Say what nobody said of the model, so that it was taken, as the other commands do."""
    err = terminal.errors()
    for line in about["notes"]:
        err.print(terminal.plain(line))
    if not about["trained"]:
        terminal.warn_of_random_weights(err, exported=exported)


def _serve_until_told(service: Service, came: SimpleQueue[int]) -> RuntimeError | None:
    """Wait until the service is to end; restart its replicas meanwhile, where it is told to. Why it ended by itself."""
    restart = Thread()
    try:
        while (wanted := _next(came)) not in (signal.SIGINT, signal.SIGTERM):
            if wanted is not None and restart.is_alive():
                print("restarting already; give the signal again afterwards", flush=True)
            elif wanted is not None:
                # In a thread: what ends the service must not wait for it.
                restart = Thread(target=_restart, args=(service,))
                restart.start()
            service.check()
    except RuntimeError as error:
        return error
    finally:
        service.ending = True
        if restart.ident is not None:
            restart.join()
    return None


def _restart(service: Service) -> None:
    try:
        service.restart()
    except Exception as error:
        if not service.ending:
            terminal.errors().print(f"not restarted: {terminal.plain(error)}", style="red")
    else:
        if not service.ending:
            print("restarted", flush=True)


@contextmanager
def _plain_in_files() -> Iterator[None]:
    """Inside, what goes to a file has no colours: Ray has them in the text of its errors, whoever reads it."""
    out, err = (stream if stream.isatty() else _Plain(stream) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class _Plain:
    """A stream without the sequences that steer a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_STEERING.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _next(came: SimpleQueue[int]) -> int | None:
    """The next signal, or None where it is time to look at the server."""
    try:
        return came.get(timeout=LOOK)
    except Empty:
        return None
