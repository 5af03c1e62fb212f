"""What is wrong with a data set: images that stand in it more than once, and where.

FER2013 holds about 1,850 rows that repeat an earlier image byte for byte; some 280 of PublicTest
also stand in Training.  A network can know those by heart, so they are counted when the records
are written and reported apart when a model is evaluated.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_TRAIN = "train"


@dataclasses.dataclass(frozen=True)
class Audit:
    """The findings.

    Attributes:
      duplicates: per split, how many images repeat an earlier one of the same split.
      leaked_rows: per split but `train`, the source rows whose image also stands in `train`.
      conflicting_labels: how many distinct images stand in the data with more than one label.
    """

    duplicates: Mapping[str, int]
    leaked_rows: Mapping[str, Sequence[int]]
    conflicting_labels: int

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest's form."""
        return dataclasses.asdict(self)


class Auditor:
    """Collects a digest of each image as it comes by, 16 bytes an image, and reports at the end."""

    def __init__(self) -> None:
        self._labels_of: dict[bytes, set[int]] = {}
        self._digests: dict[str, list[tuple[bytes, int]]] = {}

    def add(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        splits: Sequence[str],
        rows: npt.NDArray[np.int64],
    ) -> None:
        """Takes in n images, uint8 [n, ...], with their labels, splits and rows."""
        for image, label, split, row in zip(
            images, labels.tolist(), splits, rows.tolist(), strict=True
        ):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            self._labels_of.setdefault(digest, set()).add(label)
            self._digests.setdefault(split, []).append((digest, row))

    def report(self) -> Audit:
        """Returns what was found in all that was added."""
        train = {digest for digest, _ in self._digests.get(_TRAIN, [])}
        return Audit(
            duplicates={
                split: len(entries) - len({digest for digest, _ in entries})
                for split, entries in self._digests.items()
            },
            leaked_rows={
                split: [row for digest, row in entries if digest in train]
                for split, entries in self._digests.items()
                if split != _TRAIN
            },
            conflicting_labels=sum(len(labels) > 1 for labels in self._labels_of.values()),
        )
