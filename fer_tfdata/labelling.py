"""What images are labelled with: the data set's own labels, or one of the kinds FER+ gives."""

import dataclasses
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import ferplus, records
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, NO_LABEL

_log = logging.getLogger(__name__)


def class_names(schema: records.Schema, labels: str) -> tuple[str, ...]:
    """Returns the expressions that labels of a kind (`ferplus.LABELS`) are ids of, in order."""
    return schema.expressions if labels == ferplus.OWN_LABELS else EIGHT_EXPRESSIONS


def usable_examples(split: records.Split, labels: str) -> int:
    """Returns how many images of a split have labels of a kind (`ferplus.LABELS`).

    The data set's own labels must be there for every image; FER+ leaves out the images on which
    its voters did not agree.

    Raises:
      InputError: the labels are not there, or of no kind.
    """
    if labels not in ferplus.LABELS:
        raise InputError(
            f"labels: expected one of {', '.join(ferplus.LABELS)}, received {labels!r}"
        )
    where = f"{split.directory}, split {split.name!r}"
    if labels == ferplus.OWN_LABELS:
        if split.unlabelled:
            raise InputError(
                f"{where}: expected a label for every image, received {split.unlabelled} of "
                f"{split.examples} without one; choose a split, or convert a source, that has them"
            )
        return split.examples
    if not split.schema.has_votes:
        raise InputError(
            f"{where}: expected FER+ votes for labels={labels}, received records without votes; "
            "convert again with --ferplus_csv"
        )
    if not split.ferplus_examples[labels]:
        raise InputError(
            f"{where}: expected images that FER+'s voters agree on for labels={labels}, received "
            f"none among {split.examples}; choose other labels"
        )
    return split.ferplus_examples[labels]


def votes_are_on_other_images(split: records.Split) -> bool:
    """Whether FER+'s majority is the label no more often than by chance."""
    return ferplus.agree_by_chance(split.ferplus_agreeing, split.ferplus_comparable)


def warn_of_votes_on_other_images(split: records.Split) -> None:
    """Logs a warning where FER+'s majority is the label no more often than by chance.

    No error: a file of votes in another order than the images is what many people hold.
    """
    if votes_are_on_other_images(split):
        _log.warning(
            "%s: FER+'s majority is the label on %d of %d images, no more than chance, so that the "
            "votes must be on other images; convert again with the other --ferplus_join",
            split.directory,
            split.ferplus_agreeing,
            split.ferplus_comparable,
        )


def targets(votes: Any, labels: str, xp: Any) -> tuple[Any, Any]:
    """Returns what FER+ labels images with, and which images have such a label, bool [n].

    Args:
      votes: int64 [n, 10].
      labels: one of `ferplus.KINDS`.
      xp: the array library of the votes.
    """
    if labels == "ferplus_majority":
        majority = ferplus.majority(votes, xp)
        return majority, majority != NO_LABEL
    distribution = ferplus.distribution(votes, xp)
    return distribution, xp.any(distribution > 0, axis=1)


def labelled_positions(
    split: records.Split, votes: npt.NDArray[np.int64], labels: str
) -> npt.NDArray[np.int64]:
    """Returns where in the split the images stand that FER+ gives a label, in order.

    Args:
      split: as `records.open_split` returns it.
      votes: int64 [n, 10], those of the whole split.
      labels: one of `ferplus.KINDS`.

    Raises:
      InputError: the manifest counts them otherwise.
    """
    _, kept = targets(votes, labels, np)
    positions = np.flatnonzero(kept)
    expected = usable_examples(split, labels)
    if len(positions) != expected:
        raise InputError(
            f"{split.directory / records.MANIFEST}: expected {expected} images of split "
            f"{split.name!r} with labels={labels}, received {len(positions)}; convert the source "
            "again with --overwrite"
        )
    return positions


def parse(serialized: tf.Tensor, schema: records.Schema, labels: str) -> dict[str, tf.Tensor]:
    """Parses a batch of examples, string [n], and leaves out those without a label.

    Returns:
      `image`, `label`, `row` as `records.parse_batch` does, with `label` of the kind asked for.
    """
    if labels == ferplus.OWN_LABELS:
        return records.parse_batch(serialized, dataclasses.replace(schema, has_votes=False))
    features = records.parse_batch(serialized, schema)
    # Whole batches are masked, for the reason they are parsed whole: examples one by one are slow.
    labelled, kept = targets(features["votes"], labels, tf.experimental.numpy)
    chosen = {"image": features["image"], "label": labelled, "row": features["row"]}
    return {name: tf.boolean_mask(feature, kept) for name, feature in chosen.items()}
