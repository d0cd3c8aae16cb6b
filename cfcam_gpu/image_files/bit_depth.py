"""How many bits the samples of a file have, where Pillow does not tell it."""

from __future__ import annotations

from typing import IO


def of_png(file: IO[bytes]) -> tuple[bool, int]:
    """Whether a PNG has 16 bits, and of how many its sBIT says that they mean something; 0 where it has none."""
    file.seek(8)
    deep, significant = False, 0
    while len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name == b"IDAT":
            break
        after = file.tell() + length + 4  # a checksum, which Pillow looks at
        if name == b"IHDR":
            deep = file.read(9)[8] == 16
        elif name == b"sBIT":
            significant = max(file.read(min(length, 4)), default=0)
        file.seek(after)
    return deep, significant


def of_jpeg_2000(file: IO[bytes]) -> int:
    """Of how many bits the samples of a JPEG 2000 are, at most; the decoder scales fewer than 16 to 8 or 16.

    Its codestream (ISO/IEC 15444-1, annex A) is all of the file, or in one of its boxes.
    """
    file.seek(0)
    if file.read(2) != b"\xff\x4f":
        file.seek(0)
        while len(head := file.read(8)) == 8 and head[4:] != b"jp2c":
            length, start = int.from_bytes(head[:4], "big"), 8
            if length == 1:
                length, start = int.from_bytes(file.read(8), "big"), 16
            if length < start:
                break
            file.seek(length - start, 1)
        file.seek((8 if head[:4] == b"\0\0\0\1" else 0) + 2, 1)
    size = file.read(40)
    components = file.read(3 * int.from_bytes(size[38:40], "big"))
    return max(((precision & 0x7F) + 1 for precision in components[::3]), default=0)
