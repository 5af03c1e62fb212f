"""What the augmentation of training images is a function of."""

import dataclasses
from typing import Final, Literal, get_args

from fer_tfdata.errors import InputError

Placement = Literal["input", "device"]

PLACEMENTS: Final = ("auto", *get_args(Placement))

_GREATEST: Final = {
    "shift": 1.0,
    "rotation": 180.0,
    "zoom": 1.0,
    "crop": 0.5,
    "brightness": 1.0,
    "contrast": 1.0,
    "erasing": 1.0,
    "mixup": 100.0,
    "cutmix": 100.0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How much of which change; 0 is none.

    Attributes:
      flip: mirrors half of the images left to right.
      shift: the farthest that an image is moved, as a share of its width and of its height.
      rotation: the farthest that it is turned either way, in degrees.
      zoom: it is enlarged or reduced by a factor of at most 1 + zoom.
      crop: how much of its width and of its height is cut off, evenly at both sides, after the
        other changes of its geometry: what is left is smaller, and so is what a step costs.
      brightness: the most that is added to its pixels or taken from them, as a share of white.
      contrast: the most by which its pixels' distances from their mean grow or shrink, as a share.
      erasing: the probability that a rectangle of it is overwritten.
      mixup: alpha of MixUp's Beta(alpha, alpha).
      cutmix: alpha of CutMix's Beta(alpha, alpha); with both, each image gets either.
    """

    flip: bool = True
    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Checks each value alone.

        Raises:
          InputError: one is out of its range; the message names it.
        """
        for name, greatest in _GREATEST.items():
            value = getattr(self, name)
            if not 0 <= value <= greatest:
                raise InputError(f"{name}: expected 0 to {greatest:g}, received {value}")

    @property
    def warps(self) -> bool:
        """Whether pixels move otherwise than by mirroring, or are cut off."""
        return bool(self.shift or self.rotation or self.zoom or self.crop)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other, which makes their labels shares."""
        return bool(self.mixup or self.cutmix)


def side_left(side: int, share: float) -> int:
    """Returns what a share taken off a width or a height leaves of it, in pixels."""
    return round(side * (1 - share))
