"""The input that is asked for instead of a model's own: ``--size``, ``--channels``, ``--mean`` and ``--std``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image

from ..image_files.preparation import Preparation
from .options import Settings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: How models of ImageNet commonly want their photographs.
COMMON = Preparation(224, 256, Image.Resampling.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True, kw_only=True)
class AskedInput:
    """What of a model's input is asked for.

    Parameters
    ----------
    size : (int, int) or None
        Height and width.
    channels : int or None
    mean, std : tuple of float or None
        One number of each channel, or one for all. Both or neither.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, settings: Settings) -> AskedInput:
        """That of a command on images."""
        size = None if settings.size is None else (settings.size[0], settings.size[1])
        return cls(size=size, channels=settings.channels, mean=settings.mean, std=settings.std)

    def applied(self, own: Preparation, model: str, channels: int | None = None) -> Preparation:
        """A model's own preparation with what is asked for.

        Parameters
        ----------
        own : Preparation
        model : str
            For errors.
        channels : int, optional
            Those that the model itself shows to take. Default: those of `own`.

        Raises
        ------
        ValueError
            If mean and std are of another number of channels, or nothing says them.
        """
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                f"mean and std: expected both or neither; got {'std' if self.mean is None else 'mean'} alone"
            )
        several = [len(values) for values in (self.mean or (), self.std or ()) if len(values) > 1]
        wanted = self.channels or channels or next(iter(several), None) or own.channels
        mean, std = self.mean or own.mean, self.std or own.std
        if self.mean is None and own.channels != wanted:
            raise ValueError(
                f"mean and std: {model} {'takes' if self.channels in (None, channels) else 'is to take'} {wanted} "
                f"channel{'s' * (wanted > 1)}, and nothing says their mean and standard deviation; give --mean and "
                f"--std, one number for all or {wanted}, of values in [0, 1] or in the files' own units"
            )
        if self.size is not None:
            own = _resized(own, self.size)
        return replace(own, mean=_each("mean", mean, wanted), std=_each("std", std, wanted))


def _resized(own: Preparation, size: tuple[int, int]) -> Preparation:
    """The same for another size, with the same share of the image."""
    rows, columns = (own.resize, own.resize) if isinstance(own.resize, int) else own.resize
    return replace(own, size=size, resize=(round(size[0] * rows / own.height), round(size[1] * columns / own.width)))


def _each(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name}: expected one number, or {channels}, one for each channel; got {len(values)}. If the model takes "
            f"so many: --channels {len(values)}"
        )
    return values * channels if len(values) == 1 else values
