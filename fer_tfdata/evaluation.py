"""A model and a split to figures that can be trusted."""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.stats
import sklearn.metrics
import tensorflow as tf

from fer_tfdata import bootstrap, calibration, ferplus, labelling, pipeline, records, views
from fer_tfdata.classifier import Classifier
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.views import TestTimeAveraging

EvaluationLabels = Literal["auto", "fer2013", "ferplus_majority"]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of a split, in the split's order.

    Attributes:
      probabilities: float64 [n, expressions].
      labels: int64 [n], ids of those expressions.
      rows: int64 [n], the rows of the source.
      images: uint64 [n], a number for each image, the same for equal ones alone.
    """

    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    images: npt.NDArray[np.uint64]

    @property
    def chosen(self) -> npt.NDArray[np.int64]:
        """The most probable expressions, int64 [n]."""
        chosen: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return chosen

    @property
    def confidences(self) -> npt.NDArray[np.float64]:
        """Their probabilities, float64 [n]."""
        confidences: npt.NDArray[np.float64] = self.probabilities.max(axis=1)
        return confidences

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether they are the true ones, bool [n]."""
        correct: npt.NDArray[np.bool_] = self.chosen == self.labels
        return correct

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """The negative log-likelihoods of the true expressions in nats, float64 [n]."""
        of_labels = self.probabilities[np.arange(len(self.labels)), self.labels]
        losses: npt.NDArray[np.float64] = -np.log(np.maximum(of_labels, np.finfo(np.float64).tiny))
        return losses

    def without(self, rows: Collection[int]) -> npt.NDArray[np.bool_]:
        """Returns which examples are of none of these rows, bool [n]."""
        without: npt.NDArray[np.bool_] = ~np.isin(self.rows, sorted(rows))
        return without

    def only(self, kept: npt.NDArray[np.bool_]) -> Self:
        """Returns the predictions for these examples alone, bool [n]."""
        return dataclasses.replace(
            self,
            probabilities=self.probabilities[kept],
            labels=self.labels[kept],
            rows=self.rows[kept],
            images=self.images[kept],
        )


def predict_dataset(
    classifier: Classifier,
    dataset: tf.data.Dataset,
    *,
    tta: TestTimeAveraging = "none",
    on_batch: Callable[[int], object] = lambda count: None,
) -> Predictions:
    """Returns a classifier's probabilities for every example of a dataset.

    Args:
      classifier: of the dataset's images.
      dataset: batches `(image, label, row)`, each example once.
      tta: over which views of each image the probabilities are averaged; see `views.averaged`.
      on_batch: is told the number of images of every batch that was classified.

    Raises:
      InputError: the model returns anything but finite numbers.
    """
    averaged = views.averaged(classifier, tta)
    parts = []
    for images, labels, rows in dataset.as_numpy_iterator():
        parts.append((averaged.probabilities(images), labels, rows, _numbers_of(images)))
        on_batch(len(images))
    return Predictions(*map(np.concatenate, zip(*parts, strict=True)))


def _numbers_of(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Returns a number for each image, uint64 [n]: 64 bits of a checksum."""
    digests = b"".join(hashlib.blake2b(image, digest_size=8).digest() for image in images)
    return np.frombuffer(digests, np.uint64)


def compute_metrics(
    predictions: Predictions,
    *,
    expressions: Sequence[str] = EXPRESSIONS,
    leaked_rows: frozenset[int] = frozenset(),
    near_leaked_rows: frozenset[int] = frozenset(),
) -> dict[str, Any]:
    """Returns the figures of `metrics.json` that follow from the predictions alone.

    `accuracy_ci95` is Wilson's interval (1927), `ece` the expected calibration error with 15 bins
    of equal width (Guo et al. 2017), `nll` the mean negative log-likelihood in nats.  An expression
    that the split does not hold has recall, precision and F1 0 and support 0, and does not enter
    `macro_f1`.

    Args:
      predictions: of a whole split.
      expressions: what the probabilities are of, in order.
      leaked_rows: rows whose image also stands in the training split.  `leak_free` has the figures
        without them, and is None where there is no other image; `accuracy_leak_free` and
        `examples_leak_free` repeat two of them.
      near_leaked_rows: rows of which a near-duplicate does.  `near_leak_free` has the figures
        without these and those.
    """
    labels, chosen = predictions.labels, predictions.chosen
    of_parts = {
        name: _headline(predictions.only(part)) if part.any() else None
        for name, part in leak_free_parts(predictions, leaked_rows, near_leaked_rows).items()
    }
    leak_free = of_parts["leak_free"]
    classes = np.arange(len(expressions))
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, chosen, labels=classes, zero_division=0.0
    )
    return {
        **_headline(predictions),
        "per_expression": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(expressions)
        },
        "confusion_matrix": sklearn.metrics.confusion_matrix(
            labels, chosen, labels=classes
        ).tolist(),
        "accuracy_leak_free": None if leak_free is None else leak_free["accuracy"],
        "examples_leak_free": 0 if leak_free is None else leak_free["examples"],
        **of_parts,
    }


def leak_free_parts(
    predictions: Predictions, leaked_rows: frozenset[int], near_leaked_rows: frozenset[int]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns which examples count, bool [n], by the name of the figures of those alone."""
    return {
        "leak_free": predictions.without(leaked_rows),
        "near_leak_free": predictions.without(leaked_rows | near_leaked_rows),
    }


def _headline(predictions: Predictions) -> dict[str, Any]:
    """Returns the figures that are told of all images and of those that are not leaked."""
    labels, correct = predictions.labels, predictions.correct
    macro_f1 = sklearn.metrics.f1_score(
        labels, predictions.chosen, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    return {
        "examples": len(labels),
        "accuracy": float(correct.mean()),
        "accuracy_ci95": _wilson_interval(int(correct.sum()), len(labels)),
        "macro_f1": float(macro_f1),
        "nll": float(predictions.losses.mean()),
        "ece": calibration.reliability(predictions.confidences, correct).error,
    }


def worst_mistakes(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Returns the wrongly answered examples' places, the surest answer first."""
    (wrong,) = np.nonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.confidences[wrong], kind="stable")]


def bootstrap_intervals(
    predictions: Predictions,
    *,
    leaked_rows: frozenset[int] = frozenset(),
    near_leaked_rows: frozenset[int] = frozenset(),
) -> dict[str, Any]:
    """Returns 95 % intervals of `compute_metrics`'s figures: the percentile bootstrap over images.

    Equal images are drawn together.

    Args:
      predictions: of a whole split.
      leaked_rows: as in `compute_metrics`; of equal images all or none.
      near_leaked_rows: as in `compute_metrics`; of equal images all or none.

    Returns:
      By the name of the figure, the bounds; under `leak_free` those without the leaked images and
      under `near_leak_free` those without the near-leaked ones either, or None where there is no
      other; `accuracy_leak_free` repeats one of them.
    """
    num_classes = predictions.probabilities.shape[1]
    parts = leak_free_parts(predictions, leaked_rows, near_leaked_rows)
    # All from the same draws, of all images: how many of them are leaked differs, as it would with
    # other images.
    sums, *sums_of_parts = bootstrap.resampled_sums_of_parts(
        _summands(predictions),
        predictions.images,
        [np.full(len(predictions.rows), True), *parts.values()],
    )
    of_parts = {
        name: _intervals(sums_of_part, num_classes) if part.any() else None
        for (name, part), sums_of_part in zip(parts.items(), sums_of_parts, strict=True)
    }
    leak_free = of_parts["leak_free"]
    return {
        **_intervals(sums, num_classes),
        "accuracy_leak_free": None if leak_free is None else leak_free["accuracy"],
        **of_parts,
    }


def _intervals(sums: npt.NDArray[np.float64], num_classes: int) -> dict[str, list[float]]:
    """Returns the intervals of figures; resamples without an image are left out."""
    figures = _figures(sums[sums[:, 0] > 0], num_classes=num_classes)
    return {name: bootstrap.interval(values) for name, values in figures.items()}


def _summands(predictions: Predictions) -> npt.NDArray[np.float64]:
    """Returns, a row for each image, the numbers from whose sums the figures follow."""
    num_examples, num_classes = predictions.probabilities.shape
    correct = predictions.correct
    bins = calibration.bins_of(predictions.confidences)
    cells = predictions.labels * num_classes + predictions.chosen
    places = np.arange(num_examples)
    summands = np.zeros((num_examples, 3 + calibration.BINS + num_classes**2))
    summands[:, 0] = 1
    summands[:, 1] = correct
    summands[:, 2] = predictions.losses
    summands[places, 3 + bins] = predictions.confidences - correct
    summands[places, 3 + calibration.BINS + cells] = 1
    return summands


def _figures(
    sums: npt.NDArray[np.float64], *, num_classes: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Returns the figures of resamples, each float64 [resamples], from the sums over images."""
    examples, correct, losses = sums[:, :3].T
    surplus, cells = np.split(sums[:, 3:], [calibration.BINS], axis=1)
    matrices = cells.reshape(-1, num_classes, num_classes)
    support, chosen = matrices.sum(axis=2), matrices.sum(axis=1)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(support + chosen, 1)
    return {
        "accuracy": correct / examples,
        "macro_f1": np.mean(f1, axis=1, where=support > 0),
        "nll": losses / examples,
        "ece": np.abs(surplus).sum(axis=1) / examples,
    }


@dataclasses.dataclass(frozen=True)
class SplitPredictions:
    """What a model says of a split, and what that is held against.

    Attributes:
      predictions: in the split's order, of the images that have a label.
      expressions: what the probabilities are of, in order.
      labels: what counts as true, one of `ferplus.LABELS`.
      tta: what was averaged over.
    """

    predictions: Predictions
    expressions: tuple[str, ...]
    labels: str
    tta: TestTimeAveraging


def evaluate(
    classifier: Classifier,
    split: records.Split,
    *,
    model_name: str,
    labels: EvaluationLabels = "auto",
    tta: TestTimeAveraging = "none",
    batch_size: int = 512,
) -> dict[str, Any]:
    """Returns the content of `metrics.json`: a model's figures on a split, and what they are of.

    Takes and raises what `predict_split` does.
    """
    answers = predict_split(
        classifier, split, model_name=model_name, labels=labels, tta=tta, batch_size=batch_size
    )
    return metrics_of(answers, split, model_name=model_name)


def predict_split(
    classifier: Classifier,
    split: records.Split,
    *,
    model_name: str,
    labels: EvaluationLabels = "auto",
    tta: TestTimeAveraging = "none",
    batch_size: int = 512,
    on_batch: Callable[[int], object] = lambda count: None,
) -> SplitPredictions:
    """Returns what a model says of a split.

    Args:
      classifier: as `named_models.load` returns it.
      split: as `records.open_split` returns it.
      model_name: what errors call the model, usually its path.
      labels: what counts as true; "auto" takes what the model's outputs mean (`choose_labels`).
      tta: over which views of each image the probabilities are averaged; see `views.averaged`.
      batch_size: images at a time; the answers do not depend on it.
      on_batch: is told the number of images of every batch that was classified.

    Raises:
      InputError: the model does not take such images or does not know such labels, the split has
        no such labels, or a shard is damaged.
    """
    truth = labels_measured(classifier, split.schema, model_name=model_name, labels=labels)
    if truth != ferplus.OWN_LABELS:
        labelling.warn_of_votes_on_other_images(split)
    dataset = pipeline.eval_dataset(
        split, labels=truth, batch_size=batch_size, fields=("image", "label", "row")
    )
    try:
        predictions = predict_dataset(classifier, dataset, tta=tta, on_batch=on_batch)
    except records.READ_ERRORS as error:
        records.verify_checksums(split)  # names the damaged file
        raise InputError(f"{split.directory}: a record cannot be read: {error.message}") from error
    return SplitPredictions(predictions, classifier.expressions, truth, tta)


def average(answers: Sequence[SplitPredictions]) -> SplitPredictions:
    """Returns what an ensemble says whose members said this of the same split.

    Args:
      answers: of models that know the same expressions, held against the same labels.
    """
    probabilities = np.mean([member.predictions.probabilities for member in answers], axis=0)
    predictions = dataclasses.replace(answers[0].predictions, probabilities=probabilities)
    return dataclasses.replace(answers[0], predictions=predictions)


def metrics_of(
    answers: SplitPredictions, split: records.Split, *, model_name: str
) -> dict[str, Any]:
    """Returns the content of `metrics.json` from what a model said of a split."""
    return {
        "split": split.name,
        "labels": answers.labels,
        **compute_metrics(
            answers.predictions,
            expressions=answers.expressions,
            leaked_rows=split.leaked_rows,
            near_leaked_rows=split.near_leaked_rows,
        ),
        "tta": answers.tta,
        "model": model_name,
        "manifest_sha256": split.manifest_sha256,
    }


def labels_measured(
    classifier: Classifier,
    schema: records.Schema,
    *,
    model_name: str,
    labels: EvaluationLabels = "auto",
) -> str:
    """Returns what counts as true for a model on a data set, one of `ferplus.LABELS`.

    Raises:
      InputError: the model does not take such images or does not know such labels.
    """
    if classifier.image_shape != schema.image_shape:
        raise InputError(
            f"{model_name}: expected a model of images {schema.image_shape}, as the records "
            f"hold, received one of {classifier.image_shape}"
        )
    return _check_labels(labels, classifier.expressions, schema, model_name)


def choose_labels(num_outputs: int, schema: records.Schema) -> str:
    """Returns what a model's outputs mean on a data set, one of `ferplus.LABELS`.

    Eight outputs mean FER+'s majority where there are votes; as many as the data set has
    expressions mean its own labels.

    Raises:
      InputError: they mean nothing there.
    """
    if num_outputs == len(EIGHT_EXPRESSIONS) and schema.has_votes:
        return "ferplus_majority"
    if num_outputs == len(schema.expressions):
        return ferplus.OWN_LABELS
    remedy = (
        f"convert again with --ferplus_csv, or take the labels as they are with "
        f"--labels={ferplus.OWN_LABELS}"
        if num_outputs > len(schema.expressions)
        else "measure it on data whose labels it knows"
    )
    raise InputError(
        f"expected a model of {len(schema.expressions)} expressions, as the records' labels have, "
        f"received one of {num_outputs}; {remedy}"
    )


def _check_labels(
    labels: str, expressions: Sequence[str], schema: records.Schema, model_name: str
) -> str:
    """Returns what counts as true."""
    if labels == "auto":
        try:
            return choose_labels(len(expressions), schema)
        except InputError as error:
            raise InputError(f"{model_name}: {error}") from error
    wanted = labelling.class_names(schema, labels)
    if len(expressions) < len(wanted):
        raise InputError(
            f"{model_name}: expected a model of {len(wanted)} expressions for labels={labels}, "
            f"received one of {len(expressions)}; choose other --labels"
        )
    return labels


def _wilson_interval(successes: int, trials: int) -> list[float]:
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]
