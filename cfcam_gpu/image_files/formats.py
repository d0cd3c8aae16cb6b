"""Formats of image files: which can be read, and by what; and what those are called that can't."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from PIL import Image, features

from ..scans.dicom import marks
from ..scans.errors import TooLargeError, UnreadableError

__all__ = ["HEAD", "READ", "SUFFIXES", "Format", "TooLargeError", "UnreadableError", "check_size", "recognise"]

#: How much of a file's beginning :func:`recognise` wants: NIfTI is told by byte 344, what is in a gzip takes more.
HEAD = 4096


@dataclass(frozen=True)
class Format:
    """A format that is read.

    Parameters
    ----------
    name : str
        What Pillow calls it.
    title : str
        What people call it.
    suffixes : tuple of str
        By which its files are found in a folder.
    begins : callable
        Whether a file that begins with these bytes is of the format.
    feature : str or None
        Of Pillow's, without which it can't be read; see ``python -m PIL.report``.
    plugin : (str, str) or None
        The module that teaches Pillow the format, and its function that does, if its import is not enough.
    install : str
        What to do where `feature` or `plugin` is missing.
    lossy : bool
        Whether it may change values.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], bool]
    feature: str | None = None
    plugin: tuple[str, str] | None = None
    install: str = ""
    lossy: bool = False

    def make_ready(self) -> None:
        """Have Pillow know the format.

        Raises
        ------
        UnreadableError
            If what decodes it is not installed; the message says how to get it.
        """
        if self.feature is not None and not _has(self.feature):
            raise UnreadableError(f"{self.title}, which the installed Pillow can't decode; {self.install}")
        if self.plugin is not None:
            module, function = self.plugin
            # A plugin registers itself with Pillow, for the whole process: only once such a file has come.
            if find_spec(module) is None:
                raise UnreadableError(f"{self.title}, for which {module} is not installed; {self.install}")
            plugin = import_module(module)
            if function:
                getattr(plugin, function)()


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


def _brands(head: bytes) -> tuple[bytes, ...]:
    """Of a file of boxes, as MP4 has them, what it says that it is: the major brand, then those that it is, too."""
    if head[4:8] != b"ftyp":
        return ()
    length = int.from_bytes(head[:4], "big")
    return (head[8:12], *(head[i : i + 4] for i in range(16, min(length, len(head)) - 3, 4)))


def _is_avif(head: bytes) -> bool:
    return bool({b"avif", b"avis"}.intersection(_brands(head)))


def _is_tiff(head: bytes) -> bool:
    # A slide of DICOM may begin as TIFF does, and be read as either.
    magic = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")
    return head.startswith(magic) and not marks.begins(head)


def _is_heif(head: bytes) -> bool:
    names = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
    return _brands(head)[:1] != () and _brands(head)[0] in names and not _is_avif(head)


#: The one format that Pillow doesn't read.
DICOM = "DICOM"
#: All that is read. The list is closed: it keeps out EPS, for one, which Pillow hands to Ghostscript.
READ: tuple[Format, ...] = (
    Format("JPEG", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"), _starts(b"\xff\xd8\xff"), lossy=True),
    Format("PNG", "PNG", (".png", ".apng"), _starts(b"\x89PNG\r\n\x1a\n")),
    Format("WEBP", "WebP", (".webp",), lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", lossy=True),
    Format("TIFF", "TIFF", (".tif", ".tiff"), _is_tiff),
    Format("BMP", "BMP", (".bmp", ".dib"), _starts(b"BM")),
    Format("GIF", "GIF", (".gif",), _starts(b"GIF87a", b"GIF89a")),
    Format("PPM", "PPM", (".ppm", ".pgm", ".pbm", ".pnm"), lambda head: bool(re.match(rb"P[1-6f][\s#]", head))),
    Format(
        "JPEG2000",
        "JPEG 2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        _starts(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
        feature="jpg_2000",
        install="install a Pillow that is built with OpenJPEG",
        lossy=True,
    ),
    Format(
        "AVIF",
        "AVIF",
        (".avif", ".avifs"),
        _is_avif,
        feature="avif",
        install="pip install 'cfcam-gpu[avif]'",
        lossy=True,
    ),
    Format(
        "JXL",
        "JPEG XL",
        (".jxl",),
        _starts(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
        plugin=("pillow_jxl", ""),
        install="pip install 'cfcam-gpu[jxl]'",
        lossy=True,
    ),
    Format(
        "HEIF",
        "HEIC or HEIF",
        (".heic", ".heif", ".heics", ".heifs", ".hif"),
        _is_heif,
        plugin=("pillow_heif", "register_heif_opener"),
        install="pip install 'cfcam-gpu[heif]'",
        lossy=True,
    ),
    Format(
        DICOM,
        "DICOM",
        marks.SUFFIXES,
        marks.begins,
        plugin=("pydicom", ""),
        install="pip install 'cfcam-gpu[medical]'",
    ),
)
#: What counts as a photograph in a folder.
SUFFIXES = frozenset(suffix for one in READ for suffix in one.suffixes)

_TO_PNG = "save it as PNG or JPEG"
_TO_TIFF = "save what is to be seen of it as 8-bit PNG or TIFF"
_VOLUME = "it is a volume, which --spatial-dims 3 reads for a model of volumes"
_RAW = "develop it to JPEG, PNG or TIFF"
_UNPACK = "unpack it"
_CR2 = b"CR\x02"

#: What isn't read: where its bytes are, which, what it is called, and what to do.
_NOT_READ: tuple[tuple[int, bytes, str, str], ...] = (
    (344, b"n+1\0", "NIfTI", _VOLUME),
    (344, b"ni1\0", "NIfTI", _VOLUME),
    (4, b"n+2\0\r\n\x1a\n", "NIfTI", _VOLUME),
    (4, b"ni2\0\r\n\x1a\n", "NIfTI", _VOLUME),
    (0, b"NRRD", "NRRD", _TO_TIFF),
    (0, b"ObjectType", "MetaImage", _TO_TIFF),
    (208, b"MAP ", "MRC", _TO_TIFF),
    (0, b"SIMPLE  =", "FITS", _TO_TIFF),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", _TO_TIFF),
    (0, b"\x93NUMPY", "a NumPy array", _TO_TIFF),
    (0, b"MATLAB 5.0", "a MATLAB file", _TO_TIFF),
    (0, b"ZISRAWFILE", "CZI, a microscope's scan", _TO_TIFF),
    (0, b"\xda\xce\xbe\x0a", "ND2, a microscope's scan", _TO_TIFF),
    (0, b"\x70\0\0\0", "LIF, a microscope's scan", _TO_TIFF),
    (0, b"v/1\x01", "OpenEXR", _TO_TIFF),
    (0, b"#?RADIANCE", "Radiance HDR", _TO_TIFF),
    (0, b"#?RGBE", "Radiance HDR", _TO_TIFF),
    (0, b"%!PS", "PostScript", _TO_PNG),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript", _TO_PNG),
    (0, b"%PDF", "PDF", "save its pages as PNG"),
    (0, b"8BPS", "PSD, of Photoshop", _TO_PNG),
    (0, b"gimp xcf", "XCF, of GIMP", _TO_PNG),
    (0, b"AT&TFORM", "DjVu", _TO_PNG),
    (0, b"\0\0\1\0", "ICO", _TO_PNG),
    (0, b"icns", "ICNS", _TO_PNG),
    (0, b"DDS ", "DDS", _TO_PNG),
    (0, b"qoif", "QOI", _TO_PNG),
    (0, b"P7", "PAM", _TO_PNG),
    (0, b"II\xbc\x01", "JPEG XR", _TO_PNG),
    (0, b"BPG\xfb", "BPG", _TO_PNG),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)", _RAW),
    (0, b"IIRO", "a camera's raw file (ORF)", _RAW),
    (0, b"IIRS", "a camera's raw file (ORF)", _RAW),
    (0, b"IIU\0", "a camera's raw file (RW2)", _RAW),
    (0, b"FOVb", "a camera's raw file (X3F)", _RAW),
    (8, _CR2, "a camera's raw file (CR2)", _RAW),
    (4, b"ftypcrx", "a camera's raw file (CR3)", _RAW),
    (4, b"ftyp", "a video", "save its frames as JPEG or PNG"),
    (0, b"\x1a\x45\xdf\xa3", "a video", "save its frames as JPEG or PNG"),
    (8, b"AVI LIST", "a video", "save its frames as JPEG or PNG"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "git lfs pull fetches it"),
    (0, b"PK\3\4", "a ZIP archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"BZh", "compressed by bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed by xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed by Zstandard", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
)


def recognise(head: bytes) -> Format:
    """The format of a file that begins with `head`, as far as :data:`HEAD` bytes.

    Raises
    ------
    UnreadableError
        If it is none that is read; the message says what it is, where that is known, and what to do.
    """
    for one in READ:
        # Some cameras' raw files begin as TIFF does.
        if one.begins(head) and head[8:11] != _CR2:
            return one
    for at, magic, title, advice in _NOT_READ:
        if head[at : at + len(magic)] == magic:
            raise UnreadableError(f"{title}, which is not read: {advice}")
    if head.startswith(b"\x1f\x8b"):
        inside = _in_gzip(head)
        raise UnreadableError(f"{inside}, which is not read: {_VOLUME if inside.startswith('NIfTI') else _UNPACK}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1024].lower()
    if b"<svg" in text:
        raise UnreadableError(f"SVG, which is not read: {_TO_PNG}")
    if text.startswith((b"<!doctype html", b"<html")):
        raise UnreadableError("a web page (HTML), not an image")
    if not head:
        raise UnreadableError("not an image: the file is empty")
    raise UnreadableError(f"not an image in a format of {', '.join(one.title for one in READ)}, or damaged")


def check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    """Refuse an image of this width and height if it has more pixels than Pillow's limit, or than `max_pixels`.

    Raises
    ------
    TooLargeError
        The message has the limit.
    """
    pixels = size[0] * size[1]
    # Pillow only warns of an image up to twice its limit.
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise beyond_pillows_limit()
    if max_pixels is not None and pixels > max_pixels:
        raise TooLargeError(f"{size[0]} x {size[1]}, more than the limit of {max_pixels:,} pixels")


def beyond_pillows_limit() -> TooLargeError:
    """The error of an image that is larger than Pillow's limit."""
    return TooLargeError(f"more than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,} pixels")


def _in_gzip(head: bytes) -> str:
    try:
        inside = zlib.decompressobj(wbits=31).decompress(head, HEAD)
        recognise(inside)
    except UnreadableError as error:
        if str(error).startswith("NIfTI"):
            return "NIfTI, compressed by gzip"
    except zlib.error:
        pass
    return "compressed by gzip"


def _has(feature: str) -> bool:
    # Pillow warns where it is asked for a feature that its release did not have yet.
    known: Sequence[str] = (*features.modules, *features.codecs)
    return feature in known and bool(features.check(feature))
