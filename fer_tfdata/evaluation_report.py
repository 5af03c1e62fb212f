"""What there is to say of models on a split: figures, their intervals, calibration, mistakes.

`evaluation_page` makes a page of it.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from fer_tfdata import (
    bootstrap,
    calibration,
    comparison,
    evaluation,
    ferplus,
    labelling,
    model_titles,
    pipeline,
    records,
    selective,
)
from fer_tfdata.calibration import Reliability
from fer_tfdata.classifier import Classifier, Ensemble
from fer_tfdata.comparison import Comparison
from fer_tfdata.errors import InputError
from fer_tfdata.evaluation import EvaluationLabels, Predictions, SplitPredictions
from fer_tfdata.expressions import NO_LABEL, SPLITS
from fer_tfdata.model_titles import ENSEMBLE
from fer_tfdata.selective import RiskCoverage
from fer_tfdata.views import TestTimeAveraging
from fer_tfdata.vote_agreement import VoteAgreement, vote_agreement

MISTAKES: Final = 24
"""How many mistakes of a model are shown at most; half as many where there are several models."""

_BATCH_SIZE: Final = 512


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
      row: the row of the source.
      image: uint8 [height, width, channels].
      label: the id of the true expression.
      probabilities: float64 [expressions].
      majority: the id of FER+'s majority; `NO_LABEL` where there is none.
      leaked: whether the image also stands in `train`.
    """

    row: int
    image: npt.NDArray[np.uint8]
    label: int
    probabilities: npt.NDArray[np.float64]
    majority: int
    leaked: bool


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """What there is to say of one model.

    Attributes:
      name: what it was called by.
      title: what it is called in the report, and its folder.
      expressions: what its probabilities are of, in order.
      metrics: the content of `metrics.json`.
      reliability: of its probabilities as they are.
      scaled_reliability: of those with the temperature; None where none could be fitted.
      risk_coverage: what it reaches on the images it is surest of.
      mistakes: the surest of its wrong answers, the surest first.
    """

    name: str
    title: str
    expressions: tuple[str, ...]
    metrics: Mapping[str, Any]
    reliability: Reliability
    scaled_reliability: Reliability | None
    risk_coverage: RiskCoverage
    mistakes: Sequence[Mistake]


@dataclasses.dataclass(frozen=True)
class Report:
    """What there is to say of models on a split.

    Attributes:
      split: what was measured on.
      labels: what counts as true, one of `ferplus.LABELS`.
      tta: what was averaged over.
      models: in the order they were given; their ensemble last.
      comparisons: every pair of them.
    """

    split: records.Split
    labels: str
    tta: TestTimeAveraging
    models: Sequence[ModelReport]
    comparisons: Sequence[Comparison]


def make_report(
    classifiers: Mapping[str, Classifier],
    split: records.Split,
    *,
    labels: EvaluationLabels = "auto",
    tta: TestTimeAveraging = "none",
    with_ensemble: bool = False,
    trained_on: Mapping[str, Sequence[str] | None] = MappingProxyType({}),
    verify: bool = False,
    on_batch: Callable[[int], object] = lambda count: None,
) -> Report:
    """Measures models on a split.

    Temperatures are fitted on the validation split, whatever split is measured: its images go
    through the models too.  Those that also stand in `train` are left out: of them, a model is as
    sure as of what it was trained on.  So are equals of a measured image; where validation is the
    measured split, each image's temperature is fitted without it and its equals
    (`calibration.cross_fitted_temperatures`).

    Args:
      classifiers: by name.
      split: as `records.open_split` returns it.
      labels: what counts as true; "auto" takes what the models' outputs mean.
      tta: over which views of each image the probabilities are averaged.
      with_ensemble: measures the average of all models too, as `ENSEMBLE`.
      trained_on: by name, the splits that a model was trained on, where that is known, such as
        `named_models.trained_on` says it; no temperature is fitted to what was trained on
        validation.  An ensemble was trained on what any member is known to be trained on.
      verify: compares the SHA-256 of the validation split's shards with the manifest first.
      on_batch: is told the number of images of every batch that was classified.

    Raises:
      InputError: two models are the same, one does not take such images or does not know such
        labels, they are not measured against the same labels or, for an ensemble, do not know the
        same expressions, the split has no labels, or a shard is damaged.
    """
    titles = model_titles.of(list(classifiers))
    learned = {name: trained_on.get(name) for name in classifiers}
    members: dict[str, list[str]] = {}
    if with_ensemble:
        _check_members(classifiers)
        titles[ENSEMBLE] = ENSEMBLE
        learned[ENSEMBLE] = _learned_by_any(learned)
        members[ENSEMBLE] = list(classifiers)
    truth = _common_labels(classifiers, split, labels)
    if truth == ferplus.OWN_LABELS:  # otherwise `predict_split` warns
        labelling.warn_of_votes_on_other_images(split)
    validation = _validation_beside(split, truth, verify=verify)

    def answers_on(measured: records.Split) -> dict[str, SplitPredictions]:
        answers = {
            name: evaluation.predict_split(
                classifier, measured, model_name=name, labels=labels, tta=tta, on_batch=on_batch
            )
            for name, classifier in classifiers.items()
        }
        if with_ensemble:
            answers[ENSEMBLE] = evaluation.average(list(answers.values()))
        return answers

    answers = answers_on(split)
    scalings: dict[str, _Scaling | None] = {}
    if validation is not None:
        fitted_on = answers if validation is split else answers_on(validation)
        scalings = {
            name: _scaling(answer.predictions, fitted_on[name].predictions, validation.leaked_rows)
            for name, answer in answers.items()
        }
    background = _Background.of(split)
    mistakes = _mistakes(answers, truth, background)
    return Report(
        split=split,
        labels=truth,
        tta=tta,
        models=[
            _model_report(
                name,
                answer,
                title=titles[name],
                scaling=None if "validation" in (learned[name] or ()) else scalings.get(name),
                background=background,
                mistakes=mistakes[name],
                trained_on=learned[name],
                members=members.get(name),
            )
            for name, answer in answers.items()
        ],
        comparisons=comparison.compare(
            {name: answer.predictions.correct for name, answer in answers.items()},
            next(iter(answers.values())).predictions.images,
        ),
    )


def metrics_of(report: Report) -> dict[str, Any]:
    """Returns a report's figures: those of the model, or of each model and of their comparisons."""
    if len(report.models) == 1:
        return dict(report.models[0].metrics)
    return {
        "models": {model.name: dict(model.metrics) for model in report.models},
        "comparisons": [dataclasses.asdict(pair) for pair in report.comparisons],
    }


# What is measured, and against what.


def _common_labels(
    classifiers: Mapping[str, Classifier], split: records.Split, labels: EvaluationLabels
) -> str:
    measured = {
        name: evaluation.labels_measured(classifier, split.schema, model_name=name, labels=labels)
        for name, classifier in classifiers.items()
    }
    if len(set(measured.values())) > 1:
        received = ", ".join(f"{truth} ({name})" for name, truth in measured.items())
        raise InputError(
            f"expected models that are measured against the same labels, received {received}; "
            f"choose --labels, such as --labels={ferplus.OWN_LABELS}"
        )
    return next(iter(measured.values()))


def _check_members(classifiers: Mapping[str, Classifier]) -> None:
    if len(classifiers) < 2:
        raise InputError("--ensemble: expected two models or more, received one; repeat --model")
    if ENSEMBLE in classifiers:
        raise InputError(f"--model: {ENSEMBLE}: with --ensemble, name it ./{ENSEMBLE}")
    Ensemble(list(classifiers.values()))


def _learned_by_any(learned: Mapping[str, Sequence[str] | None]) -> list[str] | None:
    """Returns the splits that a member is known to be trained on; None where it is of none."""
    known = [splits for splits in learned.values() if splits is not None]
    if not known:
        return None
    return [split for split in SPLITS if any(split in splits for splits in known)]


def _validation_beside(split: records.Split, labels: str, *, verify: bool) -> records.Split | None:
    """Returns the validation split of the same data; None where it has none with such labels."""
    if split.name == "validation":
        return split
    if "validation" not in records.read_manifest(split.directory)["splits"]:
        return None
    data_dir = split.directory.parent.parent
    validation = records.open_split(data_dir, "validation", verify=verify)
    try:
        labelling.usable_examples(validation, labels)
    except InputError:
        return None
    return validation


@dataclasses.dataclass(frozen=True)
class _Background:
    """What the records say of a split's images beside what is measured, in the split's order."""

    split: records.Split
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    votes: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, split: records.Split) -> Self:
        names = ["row", "label", *(["votes"] if split.schema.has_votes else [])]
        arrays = records.load_split(split, names)
        return cls(split, arrays["row"], arrays["label"], arrays.get("votes"))

    def majority_of(self, row: int) -> int:
        """Returns FER+'s majority, or `NO_LABEL`."""
        if self.votes is None:
            return NO_LABEL
        return int(ferplus.majority(self.votes[self.rows == row])[0])

    def agreement(self, predictions: Predictions) -> VoteAgreement | None:
        """Returns how answers agree with the votes; None where there are none."""
        if self.votes is None:
            return None
        measured = np.isin(self.rows, predictions.rows)  # both are in the split's order
        return vote_agreement(
            predictions.probabilities, self.labels[measured], self.votes[measured]
        )


# What is said of a model.


@dataclasses.dataclass(frozen=True)
class _Scaling:
    """Predictions with a temperature.

    Attributes:
      predictions: those measured, scaled.
      temperature: the one that fits validation without the images also in train, and without
        equals of images measured in another split.
      of_folds: those that were used instead, where the measured images are validation's.
    """

    predictions: Predictions
    temperature: float
    of_folds: Sequence[float] | None


def _scaling(
    predictions: Predictions, validation: Predictions, leaked_rows: frozenset[int]
) -> _Scaling | None:
    """Returns predictions with the temperature of those of validation, which may be the same.

    None where nothing of validation is left to fit on.
    """
    kept = validation.without(leaked_rows)
    if predictions is not validation:
        kept &= ~np.isin(validation.images, predictions.images)
    if not kept.any():
        return None
    temperature = calibration.fit_temperature(
        validation.probabilities[kept], validation.labels[kept]
    )
    of_images: float | npt.NDArray[np.float64] = temperature
    of_folds = None
    if predictions is validation:
        of_images = calibration.cross_fitted_temperatures(
            predictions.probabilities,
            predictions.labels,
            groups=predictions.images,
            fitted_on=kept,
        )
        of_folds = np.unique(of_images).tolist()
    probabilities = calibration.scaled(predictions.probabilities, of_images)
    scaled = dataclasses.replace(predictions, probabilities=probabilities)
    return _Scaling(scaled, temperature, of_folds)


def _model_report(
    name: str,
    answer: SplitPredictions,
    *,
    title: str,
    scaling: _Scaling | None,
    background: _Background,
    mistakes: Sequence[Mistake],
    trained_on: Sequence[str] | None,
    members: Sequence[str] | None,
) -> ModelReport:
    predictions = answer.predictions
    curve = selective.risk_coverage(predictions.confidences, predictions.correct)
    agreement = background.agreement(predictions)
    metrics: dict[str, Any] = {
        **evaluation.metrics_of(answer, background.split, model_name=name),
        "trained_on": trained_on,
        "bootstrap": {
            "resamples": bootstrap.RESAMPLES,
            "seed": bootstrap.SEED,
            "ci95": _intervals(predictions, background.split),
        },
        "temperature_scaling": None
        if scaling is None
        else _scaling_metrics(scaling, background.split),
        "aurc": curve.area,
        "accuracy_at_coverage": {
            f"{coverage}": curve.accuracy_at(coverage) for coverage in selective.COVERAGES
        },
        "ferplus_agreement": None if agreement is None else dataclasses.asdict(agreement),
    }
    if members is not None:
        metrics["members"] = members
    return ModelReport(
        name=name,
        title=title,
        expressions=answer.expressions,
        metrics=metrics,
        reliability=_reliability(predictions),
        scaled_reliability=None if scaling is None else _reliability(scaling.predictions),
        risk_coverage=curve,
        mistakes=mistakes,
    )


def _intervals(predictions: Predictions, split: records.Split) -> dict[str, Any]:
    return evaluation.bootstrap_intervals(
        predictions, leaked_rows=split.leaked_rows, near_leaked_rows=split.near_leaked_rows
    )


def _scaling_metrics(scaling: _Scaling, split: records.Split) -> dict[str, Any]:
    predictions = scaling.predictions
    intervals = _intervals(predictions, split)
    parts = evaluation.leak_free_parts(predictions, split.leaked_rows, split.near_leaked_rows)
    return {
        "temperature": scaling.temperature,
        "fitted_on": "validation",
        "fold_temperatures": scaling.of_folds,
        **_calibration(predictions, intervals),
        **{
            name: _calibration(predictions.only(part), intervals[name]) if part.any() else None
            for name, part in parts.items()
        },
    }


def _calibration(predictions: Predictions, intervals: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "nll": float(predictions.losses.mean()),
        "ece": _reliability(predictions).error,
        "ci95": {name: intervals[name] for name in ("nll", "ece")},
    }


def _reliability(predictions: Predictions) -> Reliability:
    return calibration.reliability(predictions.confidences, predictions.correct)


# Mistakes.


def _mistakes(
    answers: Mapping[str, SplitPredictions], labels: str, background: _Background
) -> dict[str, list[Mistake]]:
    limit = MISTAKES if len(answers) == 1 else MISTAKES // 2
    places = {
        name: evaluation.worst_mistakes(answer.predictions)[:limit]
        for name, answer in answers.items()
    }
    rows = {
        row
        for name, answer in answers.items()
        for row in answer.predictions.rows[places[name]].tolist()
    }
    images = _read_images(background.split, labels, rows)

    def mistake(predictions: Predictions, place: int) -> Mistake:
        row = int(predictions.rows[place])
        return Mistake(
            row=row,
            image=images[row],
            label=int(predictions.labels[place]),
            probabilities=predictions.probabilities[place],
            majority=background.majority_of(row),
            leaked=row in background.split.leaked_rows,
        )

    return {
        name: [mistake(answer.predictions, place) for place in places[name].tolist()]
        for name, answer in answers.items()
    }


def _read_images(
    split: records.Split, labels: str, rows: Collection[int]
) -> dict[int, npt.NDArray[np.uint8]]:
    images: dict[int, npt.NDArray[np.uint8]] = {}
    wanted = sorted(rows)
    batches = pipeline.eval_dataset(
        split, labels=labels, batch_size=_BATCH_SIZE, fields=("image", "row")
    )
    for batch, batch_rows in batches.as_numpy_iterator():
        for place in np.flatnonzero(np.isin(batch_rows, wanted)).tolist():
            images[int(batch_rows[place])] = batch[place].copy()  # a view would keep the batch
    return images
