"""Drawings of explained signals."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import colours

#: Pixels: the width, the height of a channel's line, that of the axis below, and the most in all.
WIDTH, LINE, AXIS, MOST = 1200, 90, 60, 3000
DPI = 100


def draw(maps: torch.Tensor, signals: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
    """Each signal as a line for each of its channels, over its map in colour: white where there is no evidence.

    Matplotlib draws on the host.

    Parameters
    ----------
    maps : (B, L) or (B, T, L) float32 in [0, 1]
    signals : (B, C, L)
        Each channel is stretched to a line's height. Where it is NaN or infinite, its line has a gap.
    alpha : float in [0, 1]
        How much of the colour shows where the map is 1.
    colormap : str
        A matplotlib colormap.

    Returns
    -------
    (B, height, 1200, 3) or (B, T, height, 1200, 3) uint8, on the device of the maps
    """
    white = torch.ones(1, 1, 1, 1, device=maps.device)
    rows = maps.flatten(0, -2)[:, None]
    strips = colours.blend(rows, white.expand(len(rows), 1, *rows.shape[1:]), alpha=alpha, colormap=colormap)
    lines = signals.detach().double().cpu().numpy()
    per_signal = len(rows) // len(lines)
    pictures = [picture(strip, lines[i // per_signal]) for i, strip in enumerate(strips.cpu().numpy())]
    stacked = torch.from_numpy(np.stack(pictures)).to(maps.device)
    return stacked.reshape(*maps.shape[:-1], *stacked.shape[1:])


def picture(strip: NDArray[np.uint8], lines: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A strip (1, L, 3) with lines (C, L) over it, (height, WIDTH, 3)."""
    height = min(LINE * len(lines) + AXIS, MOST)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.04, AXIS / height * 0.6, 0.94, 1 - AXIS / height * 0.8))
    draw_on(axes, strip, lines, linewidth=1.0)
    axes.set_yticks(range(len(lines)) if len(lines) <= 32 else [])
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return pixels


def draw_on(axes: Axes, strip: NDArray[np.uint8], lines: NDArray[np.float64], *, linewidth: float) -> None:
    """Draw lines (C, L), one below the other, over a strip (1, L, 3), which is the colour of their map."""
    channels, length = lines.shape
    known = np.isfinite(lines)
    lines = np.where(known, lines, np.nan)
    low = lines.min(axis=1, keepdims=True, where=known, initial=np.inf)
    high = lines.max(axis=1, keepdims=True, where=known, initial=-np.inf)
    middle = np.arange(channels)[:, None]
    # A constant channel is a straight line; the first one is at the top.
    places = middle - 0.8 * ((lines - low) / np.where(high > low, high - low, 1.0) - 0.5 * (high > low))
    axes.imshow(strip, extent=(-0.5, length - 0.5, channels - 0.5, -0.5), aspect="auto", interpolation="nearest")
    axes.plot(places.T, color="#1b1f24", linewidth=linewidth)
