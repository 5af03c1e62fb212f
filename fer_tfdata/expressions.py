"""The expressions, their ids, the splits, and the names under which people hold both.

The order of the seven is that of FER2013's CSV.  An image folder read alphabetically gives another
one (neutral before sad), and FER+ a third, so labels are always mapped by name.  FER+ and some
other corpora know contempt as well; it comes last, so that an id means the same in both lists.
"""

from typing import Final

EXPRESSIONS: Final = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
NUM_EXPRESSIONS: Final = len(EXPRESSIONS)
EIGHT_EXPRESSIONS: Final = (*EXPRESSIONS, "contempt")

NO_LABEL: Final = -1
"""The label of an image whose expression is not known, as TensorFlow Datasets writes it."""

# The CSV's `Usage` column.  PublicTest was the competition's leaderboard and PrivateTest decided
# it, so the first is for choosing a model and the second for nothing but the final figure.
SPLIT_OF_USAGE: Final = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
SPLITS: Final = tuple(SPLIT_OF_USAGE.values())

_SYNONYMS: Final = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid", "scared"),
    "happy": ("happiness", "joy"),
    "sad": ("sadness",),
    "surprise": ("surprised", "suprise", "suprised"),  # misspelt so in data sets on Kaggle
    "neutral": ("neutrality",),
    "contempt": ("contemptuous",),
}
_EXPRESSION_OF_NAME: Final = {
    name: expression
    for expression, synonyms in _SYNONYMS.items()
    for name in (expression, *synonyms)
}
_SPLIT_OF_NAME: Final = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}


def expression_of(name: str) -> str | None:
    """Returns the expression that a name in any case means (`Anger`: angry), None if it is none."""
    return _EXPRESSION_OF_NAME.get(name.strip().lower())


def split_of(name: str) -> str | None:
    """Returns the split that a name in any case means (`Val`: validation), None if it is none."""
    return _SPLIT_OF_NAME.get(name.strip().lower())
