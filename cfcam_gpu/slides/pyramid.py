"""Maps of slides as pyramids that viewers open: OME-TIFF and OME-Zarr."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..results import durable

#: Along x and along y.
Pair: TypeAlias = tuple[float, float]
#: Sides of the pieces that are read and written at once.
PIECE = 256
#: Bytes of a TIFF from which on its offsets take eight: some of the room below 4 GiB is its own.
_BIG = 2**31 + 2**30
#: What XML can't hold, however it is written.
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Raster:
    """A level in a file of float32 values, row by row, without a header.

    Parameters
    ----------
    path : Path
    height, width : int
    """

    path: Path
    height: int
    width: int

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Read rows, (count, width); fewer at the end."""
        count = min(count, self.height - first)
        values = np.fromfile(self.path, np.float32, count * self.width, offset=first * self.width * 4)
        return values.reshape(count, self.width)

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """Give out squares of :data:`PIECE` pixels, row by row; what lies outside is NaN."""
        for first in range(0, self.height, PIECE):
            rows = self.read(first, PIECE)
            for left in range(0, self.width, PIECE):
                piece = np.full((PIECE, PIECE), np.nan, np.float32)
                part = rows[:, left : left + PIECE]
                piece[: part.shape[0], : part.shape[1]] = part
                yield piece


def levels(raster: Raster) -> list[Raster]:
    """Make the coarser levels of a raster, each half of the one before, until one piece holds it.

    A pixel is the mean of the four below it, as far as they have values. The files lie beside the raster's.
    """
    found = [raster]
    while max(found[-1].height, found[-1].width) > PIECE:
        fine = found[-1]
        path = raster.path.with_name(f"{raster.path.name}.{len(found)}")
        coarse = Raster(path, (fine.height + 1) // 2, (fine.width + 1) // 2)
        with durable.naming(path), open(path, "wb") as file:
            for first in range(0, fine.height, 2 * PIECE):
                file.write(halved(fine.read(first, 2 * PIECE)).data)
        found.append(coarse)
    return found


def halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half of the size: means of 2 x 2 values, as far as they aren't NaN."""
    height, width = values.shape
    whole = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=np.nan)
    fours = whole.reshape(whole.shape[0] // 2, 2, -1, 2)
    known = ~np.isnan(fours)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is no value at all
        sums = np.where(known, fours, np.float32(0)).sum(axis=(1, 3))
        found: NDArray[np.float32] = sums / known.sum(axis=(1, 3), dtype=np.float32)
        return found


def write_tiff(
    path: Path, channels: Mapping[str, Sequence[Raster]], *, mpp: Pair, origin: Pair, name: str, label: str
) -> None:
    """Write a pyramid as OME-TIFF: float32, deflated, a page for each channel, its coarser levels in SubIFDs.

    Parameters
    ----------
    path : Path
    channels : mapping of str to sequence of Raster
        Of each channel, by its name, its levels, the finest first.
    mpp : (float, float)
        Micrometres along x and y in a pixel of the finest.
    origin : (float, float)
        Micrometres from the middle of the slide's first pixel to that of the finest's first one, along x and y.
        OME-TIFF has no place for it: its viewers lay corner on corner.
    name : str
        Of the slide.
    label : str
        Of the class.
    """
    import tifffile

    name, label = (_NO_XML.sub("\ufffd", text) for text in (name, label))
    said: dict[str, Any] = {
        "axes": "CYX",
        "Name": f"{name}: {label}",
        "Channel": {"Name": list(channels)},
        # The same file for the same map: tifffile draws one from the clock.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}/{label}")),
        "PhysicalSizeX": mpp[0],
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp[1],
        "PhysicalSizeYUnit": "µm",
    }
    size = sum(raster.height * raster.width * 4 for of_channel in channels.values() for raster in of_channel)
    levels_of = list(zip(*channels.values()))
    with durable.placing(path) as part, tifffile.TiffWriter(part, bigtiff=size > _BIG, ome=True) as file:
        for number, rasters in enumerate(levels_of):
            file.write(
                chain.from_iterable(raster.pieces() for raster in rasters),
                shape=(len(rasters), rasters[0].height, rasters[0].width),
                dtype=np.float32,
                tile=(PIECE, PIECE),
                photometric="minisblack",
                compression="zlib",
                resolution=(1e4 / (mpp[0] * 2**number), 1e4 / (mpp[1] * 2**number)),
                resolutionunit="CENTIMETER",
                subifds=len(levels_of) - 1 if number == 0 else None,
                subfiletype=1 if number else 0,
                metadata=said if number == 0 else None,
            )


def write_zarr(
    path: Path, channels: Mapping[str, Sequence[Raster]], *, mpp: Pair, origin: Pair, name: str, label: str
) -> None:
    """Write a pyramid as OME-Zarr (NGFF 0.5, Zarr format 3): float32, NaN where there is no map.

    Parameters are those of :func:`write_tiff`.
    """
    import zarr

    with durable.placing(path) as part:
        group = zarr.create_group(part, zarr_format=3)
        datasets = []
        for number, rasters in enumerate(zip(*channels.values())):
            array = group.create_array(
                str(number),
                shape=(len(rasters), rasters[0].height, rasters[0].width),
                chunks=(1, PIECE, PIECE),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=("c", "y", "x"),
            )
            for channel, raster in enumerate(rasters):
                for first in range(0, raster.height, PIECE):
                    array[channel, first : first + PIECE] = raster.read(first, PIECE)
            scale = [side * 2**number for side in reversed(mpp)]
            # A pixel of a coarser level has its middle between those of the pixels that it is the mean of.
            shift = [o + side * (2**number - 1) / 2 for o, side in zip(reversed(origin), reversed(mpp))]
            datasets.append(
                {
                    "path": str(number),
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [1.0, *scale]},
                        {"type": "translation", "translation": [0.0, *shift]},
                    ],
                }
            )
        axes = [{"name": "c", "type": "channel"}]
        axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
        multiscale = {"name": f"{name}: {label}", "axes": axes, "datasets": datasets, "type": "mean"}
        # Where viewers look for the channels' names, and how to show them: in white, from 0 to 1, the first alone.
        shown = [
            {
                "label": channel,
                "color": "FFFFFF",
                "active": number == 0,
                "window": {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0},
            }
            for number, channel in enumerate(channels)
        ]
        said: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": shown}}
        group.attrs["ome"] = said
