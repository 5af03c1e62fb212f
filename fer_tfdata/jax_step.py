"""What a step of a training does beyond Keras's, on JAX."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops


class JaxStep(keras.Model):
    """A functional model that trains on soft labels and counts its answers.

    What `TensorFlowStep` does, but for what TensorFlow's operations are needed for: there is no
    `augment` on the device, and there are no `targets` but the labels.

    Attributes:
      augment: None.
      targets: None.
      soft_labels: the loss takes float32 [n, outputs]; other labels it is tested on are converted.
      steps_done: of the epoch that `fit` begins with, how many it is to count off without doing
        them, since they were done before.
      seconds_waited: for batches, since the model was made; the first one left out.
    """

    train_function: Any  # Keras's
    augment: None = None
    targets: None = None
    soft_labels = False
    steps_done = 0
    seconds_waited = 0.0
    _counting = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answers = _Answers(self.output_shape[-1])

    def as_seen(self, batch: Any) -> Any:
        """Returns a batch as this model trains on it."""
        return batch

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds nothing, since `build_training_model` has; Keras would fetch a batch for it."""

    def make_train_function(self, force: bool = False) -> None:
        """Makes what Keras makes, and what counts off steps and times the wait for batches."""
        if self.train_function is not None and not force:
            return
        super().make_train_function(force)
        self.train_function = self._accounted(self.train_function)

    def _accounted(self, train: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        begun = False

        def train_or_count(state: Any, batches: Iterator[Any]) -> Any:
            nonlocal begun
            if self.steps_done:
                self.steps_done -= 1
                return self._results_of(state), state
            begin = time.perf_counter()
            batch = next(batches)
            if begun:  # else it was the dataset's beginning that was waited for
                self.seconds_waited += time.perf_counter() - begin
            begun = True
            return train(state, iter([batch]))

        return train_or_count

    def _results_of(self, state: Any) -> Any:
        """Returns the logs of a state of a training, whose last part is of the metrics."""
        values = zip(self.metrics_variables, state[-1], strict=True)
        with keras.StatelessScope(state_mapping=list(values)):
            return self.get_metrics_result()

    def test_step(self, state: Any, data: Any) -> Any:
        """Tests on a batch, with its labels in the form that the loss takes."""
        images, labels, *weights = data
        if self.soft_labels and not keras.backend.is_float_dtype(labels.dtype):
            labels = ops.one_hot(labels, self.output_shape[-1])
        self._counting = True  # while the step is traced
        try:
            return super().test_step(state, (images, labels, *weights))
        finally:
            self._counting = False

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Computes the metrics; in validation, also counts the answers."""
        if self._counting:
            truth = ops.argmax(y, axis=1) if self.soft_labels else y
            self._answers.update_state(truth, ops.argmax(y_pred, axis=1), sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights as Keras does, in this process alone.

        Keras makes an optimizer on the way, whose variables several processes would make together.
        """
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            super().save_weights(*args, **kwargs)
        finally:
            keras.distribution.set_distribution(before)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """How often each expression, by row, was answered by each in the latest validation."""
        counts: npt.NDArray[Any] = ops.convert_to_numpy(self._answers.counts)
        return counts.astype(np.int64)


class _Answers(keras.metrics.Metric):
    """How often what is true was answered by what.

    A metric, since Keras carries the variables of metrics, and of nothing else, through the steps
    of a validation on JAX.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__(name="answers")
        self._outputs = outputs
        # float32, which is exact up to 16 million.
        self.counts = self.add_variable((outputs, outputs), "zeros", "float32", name="counts")

    def update_state(self, truth: Any, answers: Any, sample_weight: Any = None) -> None:
        """Counts a batch, ids [n] both; what weighs nothing does not count."""
        rows = ops.one_hot(truth, self._outputs, dtype="float32")
        if sample_weight is not None:
            rows *= ops.cast(sample_weight > 0, "float32")[:, None]
        columns = ops.one_hot(answers, self._outputs, dtype="float32")
        self.counts.assign_add(ops.matmul(ops.transpose(rows), columns))

    def result(self) -> dict[str, Any]:
        """Returns nothing that belongs in a step's logs."""
        return {}
