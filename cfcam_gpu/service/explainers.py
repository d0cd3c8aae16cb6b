"""Explainers of the methods that a request may ask for, all of one loaded model; each is made when first asked for."""

from __future__ import annotations

from ..explain.cam import CAM
from ..methods import METHODS
from ..named_models.loading import Loaded, LoadedModel
from ..named_models.options import Settings
from ..pipelines.explainers import Explainer

#: Methods that take a forward for each channel, position or sample: one request would keep all others waiting. A
#: service that is started with one of them answers by it.
COSTLY = frozenset({"scorecam", "ablationcam", "smoothgradcam++", "reciprocam"})


class Explainers:
    """What explains by each method.

    Parameters
    ----------
    settings : Settings
        Of the method that the service is started with. Others take of them what is theirs: model, named layers, engine,
        views, and LibraGrad's gradients where they can.
    loaded : Loaded
        The same, loaded. An exported file has its one method alone.
    """

    def __init__(self, settings: Settings, loaded: Loaded) -> None:
        self._settings, self._loaded = settings, loaded
        self._made: dict[str, Explainer] = {settings.method: loaded.explain}
        #: The methods that may be asked for, and their names in print; first the one of requests that name none.
        self.titles = {settings.method: METHODS[settings.method].title}
        if isinstance(loaded, LoadedModel):
            cheap = {name: method for name, method in METHODS.items() if name not in COSTLY}
            self.titles |= {name: method.title for name, method in cheap.items() if self._fits(name)}

    def of(self, method: str) -> Explainer:
        """The explainer of a method of ``titles``.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            If the model is none for this method; the message says why.
        """
        if method not in self._made:
            self._made[method] = self._make(method)
        return self._made[method]

    def _fits(self, method: str) -> bool:
        """Whether the model has the layers of a method; of those that take one layer it has."""
        try:
            if METHODS[method].layers == "all":
                self.of(method)
        except Exception:  # whatever it is, it keeps no other method from its answers
            return False
        return True

    def _make(self, method: str) -> CAM:
        settings, loaded = self._settings, self._loaded
        assert isinstance(loaded, LoadedModel)  # of a file there is no other method
        found = CAM(
            loaded.model.module,
            list(settings.layers) or None,
            method=method,
            augment=list(settings.augment),
            smooth=settings.smooth,
            engine=settings.engine,
            libragrad=settings.libragrad if METHODS[method].libragrad else None,
        )
        # Layers that are chosen must not depend on the image that happens to come first.
        takes = loaded.model.takes
        found(takes.normalize(takes.blank(1).to(loaded.device)))
        return found
