"""Which objects of DICOM are asked for, and the words that all of them have; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

MARK = "Not for diagnosis"
#: Of codes that no standard has: the classes of a model.
SCHEME = "99CFCAM"
MANUFACTURER = "cfcam-gpu"
#: DICOM's long strings (LO) have no more characters, nor codes' values (SH) more than the second.
LONG, SHORT = 64, 16


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is written of each map beside its Parametric Map.

    Parameters
    ----------
    secondary_capture : bool
        The overlay as a picture.
    segment_above : float or None
        A binary Segmentation of where the map is above this, in [0, 1).
    report : bool
        A report of TID 1500 that points to the others.
    mark : bool
        Whether all objects say that they are not for diagnosis.

    Raises
    ------
    ValueError
        If `segment_above` is not in [0, 1): no map is above 1, and above less than 0 is all of it.
    """

    secondary_capture: bool = False
    segment_above: float | None = None
    report: bool = False
    mark: bool = True

    def __post_init__(self) -> None:
        if self.segment_above is not None and not 0 <= self.segment_above < 1:
            raise ValueError(f"segment_above: expected a number in [0, 1); got {self.segment_above}")

    @property
    def more(self) -> list[str]:
        """What is asked for beside the Parametric Map, by its names here."""
        named = {
            "secondary_capture": self.secondary_capture,
            "segment_above": self.segment_above is not None,
            "report": self.report,
        }
        return [name for name, is_asked in named.items() if is_asked]

    def said(self, text: str, limit: int = LONG) -> str:
        """A description with the mark before it, within `limit` characters."""
        return shortened(f"{MARK}. {text}" if self.mark else text, limit)


def shortened(text: str, limit: int) -> str:
    """One line of at most `limit` characters, without the backslash that separates DICOM's values."""
    line = " ".join(text.replace("\\", "/").split())
    return line if len(line) <= limit else f"{line[: limit - 3].rstrip()}..."
