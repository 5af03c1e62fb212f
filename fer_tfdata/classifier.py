"""What faces are classified with: a model, or several answers averaged."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fer_tfdata import run_directory
from fer_tfdata.errors import InputError

if TYPE_CHECKING:
    import keras

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float64]

# TensorFlow is imported where a model is built: importing this is part of `--help`.


class Classifier(Protocol):
    """Tells the expressions of faces."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images it takes; height and width are equal."""

    @property
    def expressions(self) -> tuple[str, ...]:
        """What its probabilities are of, in order: `EXPRESSIONS` or `EIGHT_EXPRESSIONS`."""

    def probabilities(self, images: Images) -> Probabilities:
        """Returns the probabilities of the expressions.

        Args:
          images: uint8 `[n, *image_shape]`, as many as memory holds at once.

        Returns:
          float64 `[n, expressions]`; every row sums to one.

        Raises:
          InputError: the images have another shape or type, or the model returns anything but
            finite numbers.
        """


class KerasClassifier:
    """A Keras model of logits, with the weights that it had when this was made."""

    def __init__(self, model: "keras.Model") -> None:
        """Takes a model.

        Args:
          model: uint8 images `[n, side, side, 1 or 3]`, as they are (it scales them itself), to
            seven logits in the order of `EXPRESSIONS`, or eight in that of `EIGHT_EXPRESSIONS`.

        Raises:
          InputError: the model's inputs or outputs are others; a few random images go through it
            to see.
        """
        import keras

        self._form = run_directory.check_model(model)
        on_jax = keras.backend.backend() == "jax"
        self._logits = _compiled_by_jax(model) if on_jax else _compiled_by_tensorflow(model)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `Classifier`."""
        return self._form.image_shape

    @property
    def expressions(self) -> tuple[str, ...]:
        """See `Classifier`."""
        return self._form.expressions

    def probabilities(self, images: Images) -> Probabilities:
        """See `Classifier`."""
        check_images(images, self.image_shape)
        logits = self._logits(images).astype(np.float64)
        if not np.isfinite(logits).all():
            raise InputError("expected finite logits of the model, received NaN or infinity")
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)


def _compiled_by_tensorflow(model: "keras.Model") -> Callable[[Images], npt.NDArray[Any]]:
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    # One trace for any number of images: the last batch is smaller than the others.
    traced = tf.function(
        functools.partial(model, training=False),
        input_signature=[tf.TensorSpec(model.inputs[0].shape, tf.uint8)],
    )
    # Of constants, TensorFlow folds the normalisations into the convolutions before them: one face
    # takes a fifth less processor time.
    frozen: Any = convert_to_constants.convert_variables_to_constants_v2(
        traced.get_concrete_function()
    )

    def logits(images: Images) -> npt.NDArray[Any]:
        [answers] = frozen(tf.constant(images))
        answered: npt.NDArray[Any] = answers.numpy()
        return answered

    return logits


def _compiled_by_jax(model: "keras.Model") -> Callable[[Images], npt.NDArray[Any]]:
    import jax

    logits = jax.jit(lambda state, images: model.stateless_call(*state, images, training=False)[0])

    def padded(images: Images) -> npt.NDArray[Any]:
        state = [
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]
        # JAX compiles for each number of images anew, so there are to be few.
        count = len(images)
        missing = (1 << (count - 1).bit_length()) - count
        return np.asarray(logits(state, np.pad(images, [(0, missing), *[(0, 0)] * 3])))[:count]

    return padded


class Ensemble:
    """Several classifiers, whose probabilities are averaged."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        """Takes the classifiers.

        Raises:
          InputError: there is none, or they take other images or know other expressions than each
            other.
        """
        if not members:
            raise InputError("expected at least one model, received none")
        first = members[0]
        for member in members[1:]:
            received = (member.image_shape, member.expressions)
            if received != (first.image_shape, first.expressions):
                raise InputError(
                    f"expected models of the same images and expressions as the first, "
                    f"{list(first.image_shape)} and {len(first.expressions)}, received one of "
                    f"{list(member.image_shape)} and {len(member.expressions)}"
                )
        self._members = tuple(members)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `Classifier`."""
        return self._members[0].image_shape

    @property
    def expressions(self) -> tuple[str, ...]:
        """See `Classifier`."""
        return self._members[0].expressions

    def probabilities(self, images: Images) -> Probabilities:
        """See `Classifier`."""
        return np.mean([member.probabilities(images) for member in self._members], axis=0)


def check_images(images: npt.NDArray[np.generic], image_shape: tuple[int, int, int]) -> None:
    """Checks that images are those that a classifier takes.

    Raises:
      InputError: they are not uint8 `[n, *image_shape]`.
    """
    if images.dtype != np.uint8 or images.shape[1:] != image_shape:
        raise InputError(
            f"expected images as uint8 {['n', *image_shape]}, "
            f"received {images.dtype} {list(images.shape)}"
        )
