"""Reads the images of a source: their bytes, what these are made of, and what a model sees of them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from ..photographs.photos import Preparation
from . import remote
from .decoding import Decoded, decode
from .files import Files, check_regular, reason
from .items import Item

#: Bytes of which a digest takes all. Of what is longer it takes the length, the beginning and the end.
WHOLE = 64 << 20
#: How much of the beginning, and of the end.
END = 1 << 20


class Batch(NamedTuple):
    """B images on their way into a model, and what is known of them.

    Parameters
    ----------
    sources : list of B str
    images : (B, C, H, W) tensor
    sizes : list of B (width, height), or None where it isn't known
    targets : list of B int or None
    errors : list of B str or None
        Of images that could not be read; zeros stand in their place.
    pages : list of B int or None
        How many pages or frames the file has, of which the first is taken; None where it isn't known.
    index : int
        Place of the first image in the data set.
    digest : str
        Of the content of the images, as they came: of their files' bytes, of which those longer than :data:`WHOLE`
        count by their length, beginning and end.
    """

    sources: list[str]
    images: torch.Tensor
    sizes: list[tuple[int, ...] | None]
    targets: list[int | None]
    errors: list[str | None]
    pages: list[int | None]
    index: int = 0  # type: ignore[assignment]  # a tuple has a method of this name
    digest: str = ""


class Part(NamedTuple):
    """Items that become a batch, and the place of the first in the data set."""

    start: int
    items: list[Item]


class Reader(Dataset[Any]):
    """Reads the images of items, in any process that sees the files by the same names.

    Parameters
    ----------
    root : str
        What names of files are relative to.
    preparation : Preparation
    rows : sequence, optional
        The cells of a data set that has no files, by which its items are read.
    decoding : bool
        False: only the digests.
    """

    def __init__(
        self, root: str, preparation: Preparation, *, rows: Sequence[Any] | None = None, decoding: bool = True
    ) -> None:
        self.files = Files(root, rows)
        self.preparation = preparation
        self.decoding = decoding

    def __getitem__(self, part: Part) -> Any:
        """A :class:`Batch`; its index and digest if it is not decoded."""
        fetched = self._fetched(part.items)
        digest = hashlib.blake2b(b"".join(content.digest for content in fetched), digest_size=16).hexdigest()
        if not self.decoding:
            return part.start, digest
        found = [content.decoded(self.preparation) for content in fetched]
        return Batch(
            sources=[item.source for item in part.items],
            images=torch.stack([image.pixels for image in found]),
            sizes=[image.size for image in found],
            targets=[item.target if isinstance(item.target, int) else None for item in part.items],
            errors=[image.error for image in found],
            pages=[image.pages for image in found],
            index=part.start,
            digest=digest,
        )

    def close(self) -> None:
        """Close what is open."""
        self.files.close()

    def _fetched(self, items: list[Item]) -> list[_Content]:
        if any(item.place is None and remote.is_address(self.files.path(item.source)) for item in items):
            # They are waited for together.
            return remote.together(self._content, items)
        return [self._content(item) for item in items]

    def _content(self, item: Item) -> _Content:
        if item.error is not None:
            return _Content(error=item.error)
        try:
            if item.place is not None:
                return _Content.of(item.place.read(self.files))
            path = self.files.path(item.source)
            if not remote.is_address(path):
                check_regular(path)
                if (length := os.path.getsize(path)) > WHOLE:
                    with open(path, "rb") as file:
                        head = file.read(END)
                        file.seek(length - END)
                        return _Content(Path(path), digest=_digest(length, head, file.read(END)))
            return _Content.of(self.files.read(item.source, size=item.size))
        except (OSError, ValueError) as error:  # the latter of a name that no file can have
            return _Content(error=reason(error))
        except MemoryError:
            return _Content(error="not enough memory to read it")


class _Content(NamedTuple):
    """An image's bytes, or its file where that is long, or why there are none."""

    data: bytes | Path = b""
    digest: bytes = bytes(16)
    error: str | None = None

    @classmethod
    def of(cls, data: bytes) -> _Content:
        if len(data) > WHOLE:
            return cls(data, _digest(len(data), data[:END], data[-END:]))
        return cls(data, _digest(len(data), data, b""))

    def decoded(self, preparation: Preparation) -> Decoded:
        if self.error is not None:
            return Decoded.failed(self.error, preparation)
        return decode(self.data if isinstance(self.data, Path) else io.BytesIO(self.data), preparation)


def _digest(length: int, *pieces: bytes) -> bytes:
    found = hashlib.blake2b(str(length).encode(), digest_size=16)
    for piece in pieces:
        found.update(piece)
    return found.digest()
