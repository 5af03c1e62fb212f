"""The forms in which people hold FER2013 and its like, read in bounded memory.

Each is a `Source`: it can be cut into parts, and each part yields `RawBatch`es in the source's own
order.  Labels are mapped by name, splits by usage.
"""

from fer_tfdata.sources.batches import BadRow, OnBadRow, Part, RawBatch, Source
from fer_tfdata.sources.image_folder import ImageFolder, parse_expression_names
from fer_tfdata.sources.kaggle_csv import KaggleCsv

__all__ = [
    "BadRow",
    "ImageFolder",
    "KaggleCsv",
    "OnBadRow",
    "Part",
    "RawBatch",
    "Source",
    "parse_expression_names",
]
