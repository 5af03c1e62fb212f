"""The seven expressions, their ids in FER2013, and the splits the data set defines.

The order is that of the Kaggle CSV.  An image folder read alphabetically gives another one
(neutral before sad), so labels are always mapped by name.
"""

from typing import Final

EXPRESSIONS: Final = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
NUM_EXPRESSIONS: Final = len(EXPRESSIONS)

# The CSV's `Usage` column.  PublicTest was the competition's leaderboard and PrivateTest decided
# it, so the first is for choosing a model and the second for nothing but the final figure.
SPLIT_OF_USAGE: Final = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
SPLITS: Final = tuple(SPLIT_OF_USAGE.values())
