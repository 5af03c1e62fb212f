"""Measures how many shuffled images a second each way of feeding gives, without a model.

    python -m benchmarks.pipeline_benchmark --data_dir=data

What is measured, over the images of the training split, from the page cache:

  ours_in_memory     pipeline.train_dataset, the split held in memory.
  ours_streaming     pipeline.train_dataset with no memory budget, from the shards.
  image_dataset      keras.utils.image_dataset_from_directory over PNG files.
  image_generator    ImageDataGenerator().flow_from_directory over JPEG files.
  numpy_permutation  NumPy fancy indexing of arrays in memory with a permutation: the ceiling.

Each is built, gives its first batch (timed apart), and is then iterated over for --seconds.  The
Keras ways give float32 images, the others uint8.
"""

import contextlib
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from absl import flags
from PIL import Image

from benchmarks import measure
from fer_tfdata import command_line
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.sources import RawBatch

NAME: Final = "pipeline_benchmark"

_SEED: Final = 0
_CEILING: Final = "numpy_permutation"
_BASELINE: Final = "image_dataset"

# Yields batches, an image array or tensor first, without end.
Feed = Callable[[], Iterator[tuple[Any, ...]]]

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory that make_tfrecords wrote (its --output_dir).",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "seconds",
        3.0,
        "How long each repeat iterates after its first batch.",
        lower_bound=0.0,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "batch_size", 256, "Images a batch.", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_integer(
        "images",
        0,
        "Uses the first so many images only; 0 is the whole training split.",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "image_dir",
        None,
        "An empty or new directory for the PNG and JPEG files, which stay there; without it they "
        "go into a temporary one.",
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=5)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from fer_tfdata import records

    split = records.open_split(Path(values.data_dir), "train")
    content = measure.provenance(NAME, repeats=values.repeats)
    with tempfile.TemporaryDirectory() as temporary:
        if values.images:
            split = first_examples(split, values.images, Path(temporary) / "data")
        image_dir = Path(values.image_dir or Path(temporary) / "images")
        content |= measure_pipelines(
            split,
            image_dir,
            repeats=values.repeats,
            seconds=values.seconds,
            batch_size=values.batch_size,
        )
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_pipelines(
    split: Any, image_dir: Path, *, repeats: int, seconds: float, batch_size: int
) -> dict[str, Any]:
    """Returns images a second and seconds to the first batch of each way to feed `split`."""
    from fer_tfdata import pipeline, records

    pipeline.steps_per_epoch(split, batch_size)  # refuses a batch larger than the split
    arrays = records.load_split(split)
    write_image_files(arrays["image"], arrays["label"], image_dir)
    feeds = _feeds(split, arrays, image_dir, batch_size)
    results = measure.interleaved(
        {name: _timed(feed, seconds) for name, feed in feeds.items()}, repeats
    )
    speeds = {name: [r["images_per_second"] for r in raw] for name, raw in results.items()}
    return {
        "images": split.examples,
        "batch_size": batch_size,
        "seconds": seconds,
        "variants": {
            name: {
                "dtype": raw[0]["dtype"],
                "images_per_second": measure.summary(speeds[name]),
                "first_batch_seconds": measure.summary([r["first_batch_seconds"] for r in raw]),
                f"ratio_to_{_BASELINE}": measure.ratios(speeds[name], speeds[_BASELINE]),
                f"share_of_{_CEILING}": measure.ratios(speeds[name], speeds[_CEILING]),
            }
            for name, raw in results.items()
        },
    }


def feed_speed(feed: Feed, seconds: float) -> dict[str, Any]:
    """Builds a feed, takes its first batch, and counts the images of at least one batch more."""
    start = time.perf_counter()
    batches = feed()
    first = next(batches)[0]
    first_batch_seconds = time.perf_counter() - start
    images, elapsed = 0, 0.0
    start = time.perf_counter()
    while images == 0 or elapsed < seconds:
        images += next(batches)[0].shape[0]
        elapsed = time.perf_counter() - start
    return {
        "dtype": np.dtype(getattr(first.dtype, "as_numpy_dtype", first.dtype)).name,
        "first_batch_seconds": first_batch_seconds,
        "images_per_second": images / elapsed,
    }


def _timed(feed: Feed, seconds: float) -> Callable[[], dict[str, Any]]:
    return lambda: feed_speed(feed, seconds)


# The variants.


def _feeds(
    split: Any, arrays: Mapping[str, npt.NDArray[Any]], image_dir: Path, batch_size: int
) -> dict[str, Feed]:
    return {
        "ours_in_memory": lambda: _ours(split, batch_size),
        "ours_streaming": lambda: _ours(split, batch_size, memory_budget_bytes=0),
        _BASELINE: lambda: _image_dataset(image_dir / "png", split.schema, batch_size),
        "image_generator": lambda: _image_generator(image_dir / "jpeg", split.schema, batch_size),
        _CEILING: lambda: _numpy_permutation(arrays["image"], arrays["label"], batch_size),
    }


def _ours(split: Any, batch_size: int, **options: Any) -> Iterator[tuple[Any, ...]]:
    from fer_tfdata import pipeline

    dataset = pipeline.train_dataset(split, batch_size=batch_size, seed=_SEED, **options)
    return iter(dataset)


def _image_dataset(directory: Path, schema: Any, batch_size: int) -> Iterator[tuple[Any, ...]]:
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        directory,
        class_names=list(EXPRESSIONS),
        color_mode="grayscale",
        image_size=schema.image_shape[:2],
        batch_size=batch_size,
        shuffle=True,
        seed=_SEED,
        verbose=False,
    )
    return iter(dataset.repeat())


def _image_generator(directory: Path, schema: Any, batch_size: int) -> Iterator[tuple[Any, ...]]:
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator()
    # It prints how many files it found, and stdout is for the results.
    with contextlib.redirect_stdout(io.StringIO()):
        feed = generator.flow_from_directory(
            directory,
            classes=list(EXPRESSIONS),
            color_mode="grayscale",
            target_size=schema.image_shape[:2],
            batch_size=batch_size,
            class_mode="categorical",
            shuffle=True,
            seed=_SEED,
        )
    return iter(feed)


def _numpy_permutation(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], batch_size: int
) -> Iterator[tuple[Any, ...]]:
    rng = np.random.default_rng(_SEED)
    while True:
        order = rng.permutation(len(images))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            batch = order[start : start + batch_size]
            yield images[batch], labels[batch]


# What the variants read.


@dataclasses.dataclass(frozen=True)
class FirstExamples:
    """The first examples of a split as a `Source`, and as the one `Part` of it."""

    split: Any
    count: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        shape: tuple[int, int, int] = self.split.schema.image_shape
        return shape

    @property
    def expressions(self) -> tuple[str, ...]:
        """What the labels are ids of."""
        names: tuple[str, ...] = self.split.schema.expressions
        return names

    def describe(self) -> Mapping[str, Any]:
        """Returns what the manifest says of the source."""
        return {"directory": str(self.split.directory), "split": self.split.name}

    def parts(self, count: int) -> Sequence["FirstExamples"]:
        """Returns the one part."""
        del count
        return [self]

    def count_rows(self) -> int:
        """Returns how many examples there are."""
        return min(self.count, self.split.examples)

    def batches(self, first_row: int) -> Iterator[RawBatch]:
        """Yields one batch, its rows counted anew."""
        from fer_tfdata import records

        arrays = records.load_split(self.split)
        yield RawBatch(
            images=arrays["image"][: self.count],
            labels=arrays["label"][: self.count],
            splits=[self.split.name] * self.count_rows(),
            rows=first_row + np.arange(self.count_rows()),
        )


def first_examples(split: Any, count: int, data_dir: Path) -> Any:
    """Returns the split's first `count` examples, as a data directory of their own."""
    from fer_tfdata import conversion, records

    source = FirstExamples(split, count)
    conversion.convert(source, data_dir, num_shards=len(split.shards))
    return records.open_split(data_dir, split.name)


def write_image_files(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], directory: Path
) -> None:
    """Writes `png/<expression>/<number>.png` and `jpeg/<expression>/<number>.jpg`.

    Raises:
      InputError: the directory holds something already.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: expected an empty or no directory, received one in use")
    for kind, suffix in (("png", ".png"), ("jpeg", ".jpg")):
        for expression in EXPRESSIONS:
            (directory / kind / expression).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = directory / kind / EXPRESSIONS[label] / f"{number:05d}{suffix}"
            Image.fromarray(image[:, :, 0]).save(path)


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"{content['images']} images, batches of {content['batch_size']}")
    measure.print_table(
        [
            "variant",
            "dtype",
            "images/s [min, max]",
            "first batch s [min, max]",
            f"against {_BASELINE}",
            "of the ceiling",
        ],
        [
            [
                name,
                variant["dtype"],
                measure.spread(variant["images_per_second"]),
                measure.spread(variant["first_batch_seconds"], digits=3),
                measure.times_as_fast(variant[f"ratio_to_{_BASELINE}"]),
                f"{variant[f'share_of_{_CEILING}']['median']:.1%}",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    print()


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
