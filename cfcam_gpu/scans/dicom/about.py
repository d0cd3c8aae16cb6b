"""What an object of DICOM says of the explanation in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import methods
from ..._version import __version__
from .asked import MANUFACTURER

if TYPE_CHECKING:
    from pydicom.sr.coding import Code


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a map.

    Parameters
    ----------
    model : str
        Its name, for people.
    method : str
        A key of :data:`cfcam_gpu.methods.METHODS`.
    layers : tuple of str
        The target layers' names.
    target : int or None
        The class's index; None where something else than a class was explained.
    class_name : str or None
    probability : float or None
        Of the class, by the model.
    version : str
        Of this package.
    """

    model: str
    method: str
    layers: tuple[str, ...] = ()
    target: int | None = None
    class_name: str | None = None
    probability: float | None = None
    version: str = __version__

    @classmethod
    def of(cls, line: Mapping[str, Any], model: str) -> About:
        """What a line of JSON says of a map; see :func:`cfcam_gpu.results.save`."""
        return cls(
            model=model,
            method=line["method"],
            layers=tuple(line["layers"]),
            target=line["target"],
            class_name=line["class"],
            probability=line["probability"],
        )

    @property
    def title(self) -> str:
        """The method's name in print."""
        return methods.find(self.method).title

    @property
    def code(self) -> Code:
        """Of what the map is, from DICOM's CID 217: by whether the method looks at gradients."""
        from pydicom.sr.codedict import codes

        looks = methods.find(self.method).gradients
        found: Code = codes.DCM.GradientWeightedClassActivation if looks else codes.DCM.ClassActivation
        return found

    @property
    def what(self) -> str:
        """The class, for people."""
        return self.class_name or ("target" if self.target is None else f"class {self.target}")

    @property
    def sentence(self) -> str:
        """All of it in a line."""
        layers = f" at {', '.join(self.layers)}" if self.layers else ""
        index = "" if self.target is None else f" (class {self.target})"
        return f"{self.title} of {self.what}{index} by {self.model}{layers}, {MANUFACTURER} {self.version}"
