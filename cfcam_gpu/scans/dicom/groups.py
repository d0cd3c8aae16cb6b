"""What a multi-frame file says of each frame, in its functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from typing import Any


def group(header: Any, frame: int, name: str) -> Any:
    """The item of a functional group, of a frame or of all of them, or None.

    Parameters
    ----------
    header : pydicom.Dataset
    frame : int
        From 0.
    name : str
        The keyword of the group's sequence.
    """
    own, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")
    for groups in (own[frame] if own and frame < len(own) else None, shared[0] if shared else None):
        if groups is not None and groups.get(name):
            return groups[name].value[0]
    return None
