"""How large a slide's pixels are, by what its file says."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element

#: Micrometres beyond which a pixel's size is a printer's or a screen's: 2,540 pixels for an inch; and those below which
#: it is a mistake, as light tells nothing apart there.
COARSEST, FINEST = 10.0, 0.01
#: Micrometres that a pixel at a magnification of 1 is long: at 20 it is half a micrometre.
UNIT = 10.0
#: OME's units of length, and what others call them.
_MICROMETRES = {
    "Ym": 1e30, "Zm": 1e27, "Em": 1e24, "Pm": 1e21, "Tm": 1e18, "Gm": 1e15, "Mm": 1e12, "km": 1e9, "hm": 1e8,
    "dam": 1e7, "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3,
    "pm": 1e-6, "fm": 1e-9, "am": 1e-12, "zm": 1e-15, "ym": 1e-18, "\u00c5": 1e-4, "\u212b": 1e-4, "thou": 25.4,
    "li": 25400 / 12, "in": 25400.0, "inch": 25400.0, "ft": 304800.0, "yd": 914400.0, "mi": 1609344e3,
    "pt": 25400 / 72,
}  # fmt: skip
_RESOLUTION_UNIT = {2: "inch", 3: "cm"}


def pair(x: float | None, y: float | None) -> tuple[float, float] | None:
    """The two, if both can be the size of a slide's pixels in micrometres."""
    if x is None or y is None or not (FINEST <= x <= COARSEST and FINEST <= y <= COARSEST):
        return None
    return x, y


def number(text: object) -> float | None:
    """The number that a text begins with: "40", "40x", "0.25"; a comma may stand for the point."""
    found = re.match(r"\s*(\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?)", str(text or ""))
    value = float(found[1].replace(",", ".")) if found else 0.0
    return value if 0 < value < float("inf") else None


def of_aperio(description: str) -> tuple[tuple[float, float] | None, float | None]:
    """Micrometres and magnification of what Aperio's scanners write: "...|AppMag = 20|MPP = 0.499|..."."""
    said = dict(part.partition("=")[::2] for part in description.split("|")[1:])
    facts = {key.strip(): value for key, value in said.items()}
    mpp = number(facts.get("MPP"))
    return pair(mpp, mpp), number(facts.get("AppMag"))


def of_ome(image: Element, root: Element) -> tuple[tuple[float, float] | None, float | None]:
    """Micrometres and magnification of an image of OME-XML."""
    pixels = _child(image, "Pixels")
    sizes = []
    for axis in "XY":
        size = number(None if pixels is None else pixels.get(f"PhysicalSize{axis}"))
        unit = _MICROMETRES.get("µm" if pixels is None else pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(None if size is None or unit is None else size * unit)
    settings = _child(image, "ObjectiveSettings")
    objectives = [each for each in root.iter() if _name(each) == "Objective"]
    if settings is not None:
        objectives = [each for each in objectives if each.get("ID") == settings.get("ID")]
    # Of several objectives and no word on which, none.
    magnification = number(objectives[0].get("NominalMagnification")) if len(objectives) == 1 else None
    return pair(sizes[0], sizes[1]), magnification


def of_tags(page: Any) -> tuple[float, float] | None:
    """Micrometres by a page's tags of resolution, ImageJ's unit included."""
    unit = _RESOLUTION_UNIT.get(int(page.tags.valueof(296, 2)))
    if page.is_imagej:
        found = re.search(r"^unit=(\S+)", page.description, re.MULTILINE)
        unit = found[1].replace("\\u00B5", "µ") if found else unit
    sizes = []
    for tag in (282, 283):
        pixels, units = page.tags.valueof(tag, (0, 1))
        sizes.append(units / pixels * _MICROMETRES[unit] if pixels and unit in _MICROMETRES else None)
    return pair(sizes[0], sizes[1])


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _child(element: Element, name: str) -> Element | None:
    return next((each for each in element if _name(each) == name), None)
