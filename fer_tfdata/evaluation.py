"""A model and a split to figures that can be trusted."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.stats
import sklearn.metrics
import tensorflow as tf

from fer_tfdata import ferplus, labelling, pipeline, records
from fer_tfdata.classifier import Classifier
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS

TestTimeAveraging = Literal["none", "flip"]
TEST_TIME_AVERAGING: Final[tuple[TestTimeAveraging, ...]] = get_args(TestTimeAveraging)
EvaluationLabels = Literal["auto", "fer2013", "ferplus_majority"]

_CALIBRATION_BINS: Final = 15  # as in Guo et al. 2017


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of a split, in the split's order.

    Attributes:
      probabilities: float64 [n, expressions].
      labels: int64 [n], ids of those expressions.
      rows: int64 [n], the rows of the source.
    """

    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def predict_dataset(
    classifier: Classifier, dataset: tf.data.Dataset, *, tta: TestTimeAveraging = "none"
) -> Predictions:
    """Returns a classifier's probabilities for every example of a dataset.

    Args:
      classifier: of the dataset's images.
      dataset: batches `(image, label, row)`, each example once.
      tta: "flip" averages the probabilities of each image and its mirror image.

    Raises:
      InputError: the model returns anything but finite numbers.
    """
    probabilities, labels, rows = [], [], []
    for images, batch_labels, batch_rows in dataset.as_numpy_iterator():
        batch = classifier.probabilities(images)
        if tta == "flip":
            batch = (batch + classifier.probabilities(images[:, :, ::-1])) / 2
        probabilities.append(batch)
        labels.append(batch_labels)
        rows.append(batch_rows)
    return Predictions(*(np.concatenate(parts) for parts in (probabilities, labels, rows)))


def compute_metrics(
    predictions: Predictions,
    *,
    expressions: Sequence[str] = EXPRESSIONS,
    leaked_rows: frozenset[int] = frozenset(),
) -> dict[str, Any]:
    """Returns the figures of `metrics.json` that follow from the predictions alone.

    `accuracy_ci95` is Wilson's interval (1927), `ece` the expected calibration error with 15 bins
    of equal width (Guo et al. 2017), `nll` the mean negative log-likelihood in nats.  An expression
    that the split does not hold has recall, precision and F1 0 and support 0, and does not enter
    `macro_f1`.

    Args:
      predictions: of a whole split.
      expressions: what the probabilities are of, in order.
      leaked_rows: rows whose image also stands in the training split; the `_leak_free` figures
        leave them out.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    chosen = probabilities.argmax(axis=1)
    correct = chosen == labels
    kept = ~np.isin(predictions.rows, sorted(leaked_rows))
    classes = np.arange(len(expressions))
    of_labels = probabilities[np.arange(len(labels)), labels]
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, chosen, labels=classes, zero_division=0.0
    )
    return {
        "examples": len(labels),
        "accuracy": float(correct.mean()),
        "accuracy_ci95": _wilson_interval(int(correct.sum()), len(labels)),
        "macro_f1": float(f1[support > 0].mean()),
        "nll": float(-np.log(np.maximum(of_labels, np.finfo(np.float64).tiny)).mean()),
        "ece": expected_calibration_error(probabilities.max(axis=1), correct),
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
        "accuracy_leak_free": float(correct[kept].mean()) if kept.any() else None,
        "examples_leak_free": int(kept.sum()),
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
) -> SplitPredictions:
    """Returns what a model says of a split.

    Args:
      classifier: as `named_models.load` returns it.
      split: as `records.open_split` returns it.
      model_name: what errors call the model, usually its path.
      labels: what counts as true; "auto" takes what the model's outputs mean (`choose_labels`).
      tta: "flip" averages over each image and its mirror image.
      batch_size: images at a time; the answers do not depend on it.

    Raises:
      InputError: the model does not take such images or does not know such labels, the split has
        no such labels, or a shard is damaged.
    """
    expressions = classifier.expressions
    if classifier.image_shape != split.schema.image_shape:
        raise InputError(
            f"{model_name}: expected a model of images {split.schema.image_shape}, as the records "
            f"hold, received one of {classifier.image_shape}"
        )
    truth = _check_labels(labels, expressions, split.schema, model_name)
    dataset = pipeline.eval_dataset(
        split, labels=truth, batch_size=batch_size, fields=("image", "label", "row")
    )
    try:
        predictions = predict_dataset(classifier, dataset, tta=tta)
    except records.READ_ERRORS as error:
        records.verify_checksums(split)  # names the damaged file
        raise InputError(f"{split.directory}: a record cannot be read: {error.message}") from error
    return SplitPredictions(predictions, expressions, truth, tta)


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
        ),
        "tta": answers.tta,
        "model": model_name,
        "manifest_sha256": split.manifest_sha256,
    }


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


def expected_calibration_error(
    confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> float:
    """Returns the mean gap between confidence and accuracy over 15 bins, weighted by their size.

    Args:
      confidences: float [n], the probability of the chosen class, in [0, 1].
      correct: bool [n], whether that class was the true one.
    """
    bins = np.minimum((confidences * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    surplus = np.bincount(bins, weights=confidences - correct, minlength=_CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / len(confidences))


def _wilson_interval(successes: int, trials: int) -> list[float]:
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]
