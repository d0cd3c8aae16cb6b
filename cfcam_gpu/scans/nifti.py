"""NIfTI read and written, in the place of the patient where it lies."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..results import durable
from .errors import TooLargeError, UnreadableError, check_regular
from .grid import Grid
from .scan import Scan

#: Voxels that a file may have, those of all its volumes counted, where nobody says how many: 4 GiB of float32.
MAX_VOXELS = 1 << 30
#: Names of NIfTI files end so; of a pair, those of the headers, beside which an ``.img`` stands.
SUFFIXES = (".nii", ".nii.gz", ".hdr")
_GZIP = b"\x1f\x8b"
#: A stream that gzip packs can't be larger than this many times what it is packed to.
_GZIP_MOST = 1040
#: Bytes before the voxels in a file of its own, at least: the header, and whether something extends it.
_BEFORE = {348: 352, 540: 544}
#: Voxels that a corner of a volume may be off in a qform for it to be told there, too.
_ROUNDED = 1e-2
#: So much behind the voxels is no padding.
_BEHIND = 1 << 20
#: The millimetres of the header's units of length.
_UNITS = {1: 1000.0, 3: 0.001}
#: What a header says of the patient's space, which goes into the maps' headers as it is.
_PLACE = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
#: Turns places (d, h, w, 1) into (x, y, z, 1), and back.
_REVERSED = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float64)


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """The header of the file that a volume was read from, which tells of its place in the patient.

    Parameters
    ----------
    header : nibabel.Nifti1Header
        Or that of NIfTI-2.
    volume : int or None
        Which of several volumes was read, from 0; None where it was the only one, or all were.
    volumes : int
        How many there are.
    """

    header: Any
    volume: int | None
    volumes: int

    @property
    def placed(self) -> bool:
        """Whether the file says where the patient's sides are, and not only how far its voxels are apart."""
        return bool(self.header["sform_code"]) or bool(self.header["qform_code"])


def read_nifti(
    file: str | os.PathLike[str] | IO[bytes],
    *,
    volume: int | None = None,
    channels: int = 1,
    max_voxels: int = MAX_VOXELS,
) -> Scan:
    """A volume of NIfTI-1 or NIfTI-2, packed by gzip or not.

    The values are scaled as the header says, and where they lie is what nibabel takes: the sform where it has a code,
    else the qform, else the spacing with x to the left.

    Parameters
    ----------
    file : path, or a binary file
        ``.nii`` or ``.nii.gz``; also ``.hdr`` or ``.img`` of a pair, by their path.
    volume : int, optional
        Which one of a file of several, from 0.
    channels : int
        How many volumes, of several modalities say, the file is to have, all of which are read. Voxels of red, green
        and blue are three.
    max_voxels : int
        Refuse a file that has more, before they are read.

    Returns
    -------
    Scan
        Values (D, H, W), the file's Z, Y and X; of several `channels` (C, D, H, W). NaN stays NaN.

    Raises
    ------
    UnreadableError
        If it is missing, no NIfTI, damaged, says of no place, has complex numbers, or has other channels than those;
        the message says what it has.
    TooLargeError
        If it has too many voxels.
    ModuleNotFoundError
        If nibabel is not installed.
    """
    nibabel = _nibabel()
    with _refusing(nibabel), ExitStack() as closing:
        opened = _opened(nibabel, file, closing)
        shape = _shape(opened.header)
        grid = _grid(opened.header, shape)
        read = _chosen(opened.header, shape, volume, channels)
        if (count := math.prod(shape[:3]) * channels) > max_voxels:
            raise TooLargeError(f"{count:,} voxels, which are more than {max_voxels:,}")
        source = NiftiSource(opened.header, volume if shape[3] > 1 else None, shape[3])
        return Scan(_values(nibabel, opened, shape, read), grid, _window(opened.header), source)


def save_nifti(
    values: Any, path: str | os.PathLike[str], *, like: Scan, grid: Grid | None = None, last: bool = True
) -> None:
    """Write a map in the space of the volume that it was made of: its shape, its affine and its codes, float32.

    Parameters
    ----------
    values : (D, H, W) array or tensor
        ``result.maps[0]``, say.
    path : path
        ``.nii``, or ``.nii.gz``, which is packed. It appears whole or not at all.
    like : Scan
        What was read.
    grid : Grid, optional
        Where `values` lie, if that is another grid than that of `like`: that of the network's input. They are resampled
        trilinearly; outside of `grid` there is no evidence, 0.
    last : bool
        As for :func:`cfcam_gpu.results.durable.write`.

    Raises
    ------
    ValueError
        If the suffix is another, or `values` are not of the shape of `grid`.
    OSError
        If it can't be written.
    ModuleNotFoundError
        If nibabel is not installed.
    """
    nibabel = _nibabel()
    path = Path(path)
    packed = path.name.lower().endswith(".nii.gz")
    if not packed and path.suffix.lower() != ".nii":
        raise ValueError(f"path: expected a name that ends in .nii or .nii.gz; got {path}")
    found = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if grid is not None and grid is not like.grid:
        found = grid.sampled(found, like.grid)
    if found.shape != like.grid.shape:
        raise ValueError(f"values: expected {like.grid.shape}, as the volume; got {found.shape}")
    header = _header(nibabel, like)
    image = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    written = image(found.astype(np.float32, copy=False).T, None, header)
    with durable.replacing(path, last=last) as file:
        if not packed:
            written.to_stream(file)
            return
        # Without the time in it, so that the same map is the same file. What float32 has of noise, no level packs.
        with gzip.GzipFile("", "wb", 1, file, 0) as gzipped:
            written.to_stream(gzipped)


def check_installed() -> None:
    """Refuse to begin without what reads NIfTI.

    Raises
    ------
    ModuleNotFoundError
        The message names the extra.
    """
    _nibabel()


def _nibabel() -> ModuleType:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        if error.name != "nibabel":
            raise
        raise ModuleNotFoundError("scans: nibabel is not installed; pip install 'cfcam-gpu[medical]'") from None
    return nibabel


@contextmanager
def _refusing(nibabel: ModuleType) -> Iterator[None]:
    """Inside, what is wrong with a file becomes an error of one kind."""
    try:
        yield
    except UnreadableError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(f"damaged or cut off: {error}") from error
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except (nibabel.spatialimages.HeaderDataError, ValueError, OverflowError) as error:
        raise UnreadableError(f"damaged: {error}") from error


class _Opened(NamedTuple):
    """A file's header, where its voxels are read from, how many bytes that may have at most, and has on the disk."""

    header: Any
    voxels: IO[bytes]
    length: int
    stored: int


def _opened(nibabel: ModuleType, file: str | os.PathLike[str] | IO[bytes], closing: ExitStack) -> _Opened:
    if not isinstance(file, (str, os.PathLike)):
        found = _unpacked(file)
        return _Opened(_read_header(nibabel, found[0], paired=False), *found)
    path = Path(file)
    check_regular(path)
    found = _unpacked(closing.enter_context(path.open("rb")))
    if path.suffix.lower() not in (".hdr", ".img"):
        return _Opened(_read_header(nibabel, found[0], paired=False), *found)
    beside = path.with_suffix(".img" if path.suffix.lower() == ".hdr" else ".hdr")
    if not beside.is_file():
        raise UnreadableError(f"one of a pair of files, and {beside.name} is not beside it")
    other = _unpacked(closing.enter_context(beside.open("rb")))
    header, voxels = (found, other) if beside.suffix == ".img" else (other, found)
    return _Opened(_read_header(nibabel, header[0], paired=True), *voxels)


def _unpacked(file: IO[bytes]) -> tuple[IO[bytes], int, int]:
    """A file as it is, or what gzip has packed there; its length at most, and on the disk."""
    stored = file.seek(0, os.SEEK_END)
    file.seek(0)
    packed = file.read(2) == _GZIP
    file.seek(0)
    if not packed:
        return file, stored, stored
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)), stored * _GZIP_MOST, stored


def _read_header(nibabel: ModuleType, file: IO[bytes], *, paired: bool) -> Any:
    """The header alone: what extends it may be of any size."""
    data = file.read(540)
    magic = {data[344:347], data[4:7]}
    if magic & {b"n+2", b"ni2"}:
        kind = nibabel.nifti2.Nifti2PairHeader if paired else nibabel.Nifti2Header
    elif magic & {b"n+1", b"ni1"}:
        kind = nibabel.nifti1.Nifti1PairHeader if paired else nibabel.Nifti1Header
    elif 348 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")):
        raise UnreadableError("Analyze 7.5, whose files don't tell left from right; convert it to NIfTI")
    else:
        raise UnreadableError("not a NIfTI file")
    if not paired and magic & {b"ni1", b"ni2"}:
        raise UnreadableError("the header of a pair of files; give the path of its .hdr, with the .img beside it")
    if len(data) < kind.template_dtype.itemsize:
        raise UnreadableError("cut off in its header")
    header = kind(data[: kind.template_dtype.itemsize])
    if not paired and (offset := header.get_data_offset()) < (least := _BEFORE[kind.template_dtype.itemsize]):
        raise UnreadableError(
            f"damaged: its voxels begin at byte {offset} by its vox_offset, in the header; expected {least} or more"
        )
    return header


def _shape(header: Any) -> tuple[int, int, int, int]:
    """X, Y, Z, and how many volumes."""
    shape = [int(side) for side in header.get_data_shape()]
    x, y, z, *more = [*shape, *[1] * (3 - len(shape))]
    if not shape or min(shape) < 1:
        raise UnreadableError(f"damaged: its header has the shape {tuple(shape)}")
    return x, y, z, math.prod(more)


def _grid(header: Any, shape: Sequence[int]) -> Grid:
    with np.errstate(all="ignore"):  # what comes of it is looked at
        affine = np.array(header.get_best_affine(), np.float64)
        affine[:3] *= _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
        sides = np.linalg.norm(affine[:3, :3], axis=0)
    # Of a singular matrix voxels lie in a plane; a volume of unit edges tells, whatever the spacing.
    if not np.isfinite(affine).all() or sides.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / sides)) < 1e-6:
        rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in affine[:3].tolist())
        raise UnreadableError(
            f"its affine, {rows}, puts all voxels into a plane, or nowhere; set its sform or qform anew"
        )
    return Grid((shape[2], shape[1], shape[0]), affine @ _REVERSED)


def _chosen(header: Any, shape: Sequence[int], volume: int | None, channels: int) -> range:
    """Which of the volumes, or of the values of a voxel that is a colour, are read."""
    dtype, count = header.get_data_dtype(), shape[3]
    if dtype.kind == "c":
        raise UnreadableError("its voxels are complex numbers; save their magnitude")
    if dtype.names is not None and count == 1:
        count, what = len(dtype.names), "values in each voxel, a colour's"
    else:
        what = "volumes"
    if volume is not None:
        if not 0 <= volume < count or dtype.names is not None:
            raise UnreadableError(f"volume: expected one from 0 to {shape[3] - 1}, of scalars; got {volume}")
        return range(volume, volume + 1)
    if count == channels and (dtype.names is None or shape[3] == 1):
        return range(count)
    if channels > 1:
        raise UnreadableError(f"expected {channels} volumes, one for each channel of the model; it has {count} {what}")
    raise UnreadableError(
        f"{count} {what}, and one is to be explained: save that alone (nilearn.image.index_img), in Python name it "
        "with volume=, or take a model of so many channels"
    )


def _values(nibabel: ModuleType, opened: _Opened, shape: Sequence[int], read: range) -> NDArray[np.float32]:
    """(D, H, W), or (C, D, H, W) of several; a slice at a time, so that nothing else has their size."""
    dtype = opened.header.get_data_dtype()
    offset = opened.header.get_data_offset()
    promised = offset + math.prod(shape) * dtype.itemsize
    if offset < 0 or promised > opened.length:
        raise UnreadableError(f"damaged or cut off: it promises {promised:,} bytes, and can't have them")
    slope, intercept = opened.header.get_slope_inter()
    if dtype.names is not None:  # which aren't scaled
        slope = intercept = None
    spec = tuple(shape), dtype, offset, 1.0 if slope is None else slope, intercept or 0.0
    stored = nibabel.arrayproxy.ArrayProxy(opened.voxels, spec, mmap=False)
    found = np.empty((len(read), *shape[2::-1]), np.float32)
    # What float32 can't hold is infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        for channel, volume in enumerate(read):
            for z in range(shape[2]):
                if dtype.names is None:
                    found[channel, z] = stored[:, :, z, volume].T
                elif channel == 0:
                    colours = stored[:, :, z, 0]
                    for place, name in enumerate(dtype.names):
                        found[place, z] = colours[name].T
    if opened.length != opened.stored:  # gzip's: at its end it looks at the check sum
        opened.voxels.seek(promised)
        if len(opened.voxels.read(_BEHIND)) == _BEHIND:
            raise UnreadableError("damaged: it goes on far behind what its header promises")
    return found if len(read) > 1 else found[0]


def _window(header: Any) -> tuple[float, float] | None:
    """Centre and width of what is to be shown, where the header says it."""
    low, high = float(header["cal_min"]), float(header["cal_max"])
    return ((low + high) / 2, high - low) if math.isfinite(low) and math.isfinite(high) and high > low else None


def _header(nibabel: ModuleType, like: Scan) -> Any:
    """A map's header, with the place of a volume, and nothing else of its header, which may tell of the patient."""
    source, grid = like.source, like.grid
    if not isinstance(source, NiftiSource):
        header = nibabel.Nifti1Header()
        header.set_data_shape(grid.shape[::-1])
        header.set_sform(grid.affine @ _REVERSED, code="scanner")
        header.set_qform(grid.affine @ _REVERSED, code="scanner")
        # It holds no shear, as tilted gantries have.
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*grid.shape[::-1], 1]
        off = np.abs(corners @ (header.get_qform() - grid.affine @ _REVERSED).T).max()
        if off > _ROUNDED * min(grid.spacing):
            header.set_qform(grid.affine @ _REVERSED, code="unknown")
        header.set_xyzt_units("mm")
    else:
        second = isinstance(source.header, nibabel.Nifti2Header)
        header = nibabel.Nifti2Header() if second else nibabel.Nifti1Header()
        header.set_data_shape(grid.shape[::-1])
        for name in _PLACE:
            header[name] = source.header[name]
        header["pixdim"][:4] = source.header["pixdim"][:4]
    header.set_data_dtype(np.float32)
    header["cal_max"] = 1.0
    return header
