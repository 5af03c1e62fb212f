"""What TensorFlow Datasets needs to read a data directory: `tfds.load("fer2013", data_dir=DIR)`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from fer_tfdata import ferplus
from fer_tfdata.records import FRAME_BYTES, NAME, NUM_VOTES, VERSION, Schema

FILES: Final = ("dataset_info.json", "features.json", "label.labels.txt")

_DESCRIPTION: Final = """\
Faces of {height}x{width} pixels, {channels}, with one of {count} expressions;
converted from {source}.  An image without a label has the label -1.
"""
_FER2013_DESCRIPTION: Final = """
The images of FER2013 were gathered by a web search for the challenge at ICML 2013.
"""
_USAGE_DESCRIPTION: Final = """\
Their usage in the CSV is the split here: Training is `train`, PublicTest `validation`, PrivateTest
`test`.  In a CSV without usages, images with labels are `train`, others `test`.
"""
_FRACTION_DESCRIPTION: Final = """
The source has no validation images: a share of {fraction} of its training images, chosen by the
images' digests, is `validation`.
"""
_CITATION: Final = """\
@inproceedings{goodfellow2013challenges,
  title={Challenges in Representation Learning: A Report on Three Machine Learning Contests},
  author={Goodfellow, Ian J. and Erhan, Dumitru and Carrier, Pierre Luc and Courville, Aaron and
    Mirza, Mehdi and others},
  booktitle={Neural Information Processing (ICONIP)},
  year={2013}
}
"""
_FERPLUS_CITATION: Final = """\
@inproceedings{barsoum2016training,
  title={Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
    Distribution},
  author={Barsoum, Emad and Zhang, Cha and Canton Ferrer, Cristian and Zhang, Zhengyou},
  booktitle={ACM International Conference on Multimodal Interaction (ICMI)},
  year={2016}
}
"""
_HOMEPAGE: Final = (
    "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-"
    "challenge"
)


def write_metadata(directory: Path, schema: Schema, manifest: Mapping[str, Any]) -> None:
    """Writes TFDS's files beside the shards.

    Args:
      directory: where the shards stand.
      schema: what each record holds.
      manifest: the splits and their shards.
    """
    # Here, since it takes a second to import, and only writing needs it.
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=directory,
        dataset_name=NAME,
        filetype_suffix="tfrecord",
        template=tfds.core.naming.DEFAULT_FILENAME_TEMPLATE,
    )
    is_fer2013 = _is_fer2013(manifest)
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=_features(schema),
        version=VERSION,
        split_infos=[
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[shard["records"] for shard in split["shards"]],
                num_bytes=sum(
                    shard["bytes"] - shard["records"] * FRAME_BYTES for shard in split["shards"]
                ),
                filename_template=template.replace(split=name),
            )
            for name, split in manifest["splits"].items()
        ],
        supervised_keys=("image", "label"),
        description=_describe(schema, manifest),
        homepage=_HOMEPAGE if is_fer2013 else None,
        citation=(_CITATION if is_fer2013 else "")
        + (_FERPLUS_CITATION if schema.has_votes else ""),
        check_data=False,
    )


def _is_fer2013(manifest: Mapping[str, Any]) -> bool:
    return "directory" not in manifest["source"]  # a folder may hold any corpus


def _describe(schema: Schema, manifest: Mapping[str, Any]) -> str:
    height, width, channels = schema.image_shape
    description = _DESCRIPTION.format(
        height=height,
        width=width,
        channels="gray" if channels == 1 else "in colour",
        count=len(schema.expressions),
        source=_source_name(manifest["source"]),
    )
    if _is_fer2013(manifest):
        description += _FER2013_DESCRIPTION
    if manifest["validation_fraction"]:
        description += _FRACTION_DESCRIPTION.format(fraction=manifest["validation_fraction"])
    elif _is_fer2013(manifest):
        description += _USAGE_DESCRIPTION
    return description


def _source_name(description: Mapping[str, Any]) -> str:
    if "directory" in description:
        name = f"the image folder {description['directory']}"
    else:
        name = " and ".join(file["file"] for file in description.get("files", [description]))
    return name.encode("utf-8", "replace").decode()  # file names need not be UTF-8


def _features(schema: Schema) -> Any:
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Tensor(
            shape=schema.image_shape,
            dtype=np.uint8,
            encoding=tfds.features.Encoding.BYTES,
            doc="The face: rows, columns, channels (one is gray, three are red, green, blue).",
        ),
        "label": tfds.features.ClassLabel(
            names=list(schema.expressions), doc="The expression; -1 where none is known."
        ),
        "row": tfds.features.Scalar(np.int64, doc="The row of the source, counted from 0."),
    }
    if schema.has_votes:
        features["votes"] = tfds.features.Tensor(
            shape=(NUM_VOTES,),
            dtype=np.int64,
            doc=f"How many of FER+'s voters chose: {', '.join(ferplus.COLUMNS)}.",
        )
    return tfds.features.FeaturesDict(features)
