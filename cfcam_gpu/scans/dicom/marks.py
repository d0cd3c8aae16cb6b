"""By what a file of DICOM is known, without reading it."""

from __future__ import annotations

import struct

#: By which files are found in a folder, beside those without a suffix.
SUFFIXES = (".dcm", ".dicom", ".ima")
#: Where the mark of a file is, and what it is.
PREAMBLE, MAGIC = 128, b"DICM"
#: VRs by which the first element of a file without a preamble is known, beside those with two bytes more.
_FIRST = (b"AE", b"CS", b"DA", b"IS", b"LO", b"SH", b"TM", b"UI", b"UL", b"US", b"OB")


def begins(head: bytes) -> bool:
    """Whether a file that begins so is of DICOM, also one without the 128 bytes and the mark that it should begin with.

    Parameters
    ----------
    head : bytes
        The first 132 at least.
    """
    if head[PREAMBLE : PREAMBLE + 4] == MAGIC:
        return True
    if len(head) < PREAMBLE:
        return False
    # The first element is one of the groups 0002 and 0008, in the order of either byte; implicit VRs are little-endian.
    group, element, length = struct.unpack("<HHL", head[:8])
    explicit = head[4:6] in _FIRST
    if group in (0x0200, 0x0800):
        return explicit and head[2] == 0
    if group not in (0x0002, 0x0008) or element > 0x0070:
        return False
    if explicit:
        return True
    after = head[8 + length : 12 + length]
    return length <= 64 and len(after) == 4 and struct.unpack("<HH", after) > (group, element) and after[0] in (2, 8)
