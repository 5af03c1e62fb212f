"""Several views of each face, over which a classifier's probabilities are averaged."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from fer_tfdata.classifier import Classifier, Images, Probabilities, check_images

TestTimeAveraging = Literal["none", "flip", "crops"]
TEST_TIME_AVERAGING: Final[tuple[TestTimeAveraging, ...]] = get_args(TestTimeAveraging)

CROP_SHARE: Final = 23 / 24
"""How much of an image's side a crop keeps: 46 of 48 pixels.

On validation, less gave the model that ships a lower accuracy (`docs/evaluation.md`).
"""


class ViewAverage:
    """A classifier, whose probabilities for several views of each image are averaged."""

    def __init__(self, classifier: Classifier, views: Callable[[Images], Iterator[Images]]) -> None:
        """Takes a classifier, and what makes as many views of images, each of their own shape."""
        self._classifier = classifier
        self._views = views

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `Classifier`."""
        return self._classifier.image_shape

    @property
    def expressions(self) -> tuple[str, ...]:
        """See `Classifier`."""
        return self._classifier.expressions

    def probabilities(self, images: Images) -> Probabilities:
        """See `Classifier`."""
        check_images(images, self.image_shape)
        # A view at a time: all at once would take as many times the memory.
        answers = [self._classifier.probabilities(view) for view in self._views(images)]
        return np.mean(answers, axis=0)


def averaged(classifier: Classifier, tta: TestTimeAveraging) -> Classifier:
    """Returns a classifier that averages over the views of a kind.

    Args:
      classifier: of one view.
      tta: "none" is the classifier itself; "flip" averages over each image and its mirror image,
        "crops" over ten crops (`ten_crops`).
    """
    return classifier if tta == "none" else ViewAverage(classifier, _VIEWS[tta])


def with_mirror_image(images: Images) -> Iterator[Images]:
    """Yields images, uint8 [n, height, width, channels], and their mirror images."""
    yield images
    yield images[:, :, ::-1]


def ten_crops(images: Images, *, share: float = CROP_SHARE) -> Iterator[Images]:
    """Yields five crops of each image, and their mirror images, all enlarged to its size.

    The corners and the centre, as in Krizhevsky et al., "ImageNet Classification with Deep
    Convolutional Neural Networks", 2012; enlarged bilinearly.

    Args:
      images: uint8 [n, side, side, channels].
      share: how much of the side a crop keeps.
    """
    side = images.shape[1]
    crop = max(1, round(share * side))
    end = side - crop
    for top, left in ((0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)):
        # Enlarging is linear along each axis: two matrices, for all the images at once.
        enlarged = np.einsum(
            "yi,nijc,xj->nyxc",
            _enlargement(side, crop, top),
            images.astype(np.float32),
            _enlargement(side, crop, left),
            optimize=True,
        )
        yield from with_mirror_image(np.rint(enlarged).astype(np.uint8))


def _enlargement(side: int, crop: int, start: int) -> npt.NDArray[np.float32]:
    """Returns [side, side]: an axis's pixels as means of the `crop` pixels from `start` on."""
    places = (np.arange(side) + 0.5) * crop / side - 0.5  # pixels are areas, not points
    places = np.clip(places, 0, crop - 1)
    below = np.minimum(places.astype(np.int64), max(crop - 2, 0))
    above = np.minimum(below + 1, crop - 1)
    weights = np.zeros((side, side), np.float32)
    rows = np.arange(side)
    np.add.at(weights, (rows, start + below), 1 - (places - below))
    np.add.at(weights, (rows, start + above), places - below)
    return weights


_VIEWS: Final[Mapping[str, Callable[[Images], Iterator[Images]]]] = {
    "flip": with_mirror_image,
    "crops": ten_crops,
}
