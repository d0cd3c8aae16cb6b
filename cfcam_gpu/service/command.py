"""``cfcam-gpu serve``: torch and Ray take seconds to import, so nothing here imports them before the command runs."""

from __future__ import annotations

import signal
from dataclasses import replace
from threading import Event
from typing import Annotated

import typer

from ..photographs import terminal
from ..photographs.options import (
    Device,
    DeviceOption,
    EngineOption,
    ModelAsExplained,
    Preset,
    PresetOption,
    Settings,
    WeightsAsExplained,
)


def serve(
    model: ModelAsExplained = "lite0",
    weights: WeightsAsExplained = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Target layer, or two, the finer one first.", show_default="chosen"),
    ] = None,
    engine: EngineOption = "auto",
    preset: PresetOption = Preset.default,
    device: DeviceOption = Device.auto,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
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

    A cluster that RAY_ADDRESS names is used; otherwise Ray is started on this machine, on loopback.
    """
    from ..pipelines import ray_session

    stop = Event()
    with terminal.refusing():
        ray_session.prepare()
        from .backend import Limits
        from .deployment import Options, running

        settings = Settings.given(model, weights, layer, engine, preset, device)
        options = Options(
            settings=replace(settings, weights=weights and weights.absolute()),
            limits=Limits(body=max_body * 2**20, pixels=max_pixels * 10**6, images=max_images),
            replicas=replicas,
            batch_size=batch_size,
            batch_wait=batch_wait / 1000,
            queue=queue,
        )
        with running(options, host=host, port=port) as url:
            # Only now: Ray has set a handler of its own meanwhile. What is under way is finished, then Ray ends.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            print(f"look at {url}", flush=True)
            stop.wait()
