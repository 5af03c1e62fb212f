"""Measures what each step of the pipeline's design gains, from the usual code to this project's.

    python -m benchmarks.pipeline_ablation --data_dir=data

What is measured, over the images of the training split, from the page cache, each way fetched
within a TensorFlow graph as `model.fit` does.  Every step keeps those before it, and is compared
with the one before and with the first of its way, the usual code: where a step loses, only the
second tells what the next one gains over it.

  streaming_1_usual       TFRecordDataset, shuffle(10,000), a map that parses each example, batch.
  streaming_2_batched     batch first, then parse a whole batch at a time.
  streaming_3_permuted    parse windows of 8,192 and permute them instead of a shuffle buffer.
  streaming_4_by_number   windows that are read by their number, one a core at the same time, and
                          copied once; pipeline.train_dataset.

  memory_1_usual          from_tensor_slices, shuffle over the whole split, batch.
  memory_2_permuted       one permutation an epoch, a map that gathers each example, batch.
  memory_3_gathered       one gather a batch.
  memory_4_together       small batches gathered together; pipeline.train_dataset.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from absl import flags

from benchmarks import measure
from fer_tfdata import command_line

NAME: Final = "pipeline_ablation"

_SEED: Final = 0
_SHUFFLE_BUFFER: Final = 10_000
_WINDOW: Final = 8_192
_EPOCHS: Final = 1 << 40

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    measure.define_feeding_flags(flag_values, seconds=2.0)
    flags.DEFINE_multi_integer(
        "batch_size", [32, 256], "Images a batch", lower_bound=1, flag_values=flag_values
    )
    measure.define_flags(flag_values, repeats=5)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from fer_tfdata import records

    logging.disable(logging.WARNING)  # that it streams is what is asked for
    split = records.open_split(Path(values.data_dir), "train")
    content = measure.provenance(NAME, repeats=values.repeats)
    content |= measure_steps(
        split,
        batch_sizes=sorted(set(values.batch_size)),
        seconds=values.seconds,
        repeats=values.repeats,
    )
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_steps(
    split: Any, *, batch_sizes: Sequence[int], seconds: float, repeats: int
) -> dict[str, Any]:
    """Returns images a second of each step, and its gain over the one before and over the first."""
    steps = design_steps(split)
    results = measure.interleaved(
        {
            f"{name}_batch_{size}": functools.partial(_speed, build, size, seconds)
            for size in batch_sizes
            for name, build in steps.items()
        },
        repeats,
    )
    variants = {}
    for size in batch_sizes:
        for name in steps:
            speeds = results[f"{name}_batch_{size}"]
            way, number, _ = name.split("_", 2)
            first = number == "1"
            before, usual = (
                results[f"{_step(way, other, steps)}_batch_{size}"]
                for other in ((1 if first else int(number) - 1), 1)
            )
            variants[f"{name}_batch_{size}"] = {
                "batch_size": size,
                "images_per_second": measure.summary(speeds),
                "gain": None if first else measure.ratios(speeds, before),
                "gain_over_usual": None if first else measure.ratios(speeds, usual),
            }
    return {"images": split.examples, "seconds": seconds, "variants": variants}


def _step(way: str, number: int, steps: Mapping[str, Any]) -> str:
    return next(name for name in steps if name.startswith(f"{way}_{number}_"))


def design_steps(split: Any) -> dict[str, Callable[[int], Any]]:
    """Returns each step: what builds an endless dataset of a batch size."""
    import tensorflow as tf

    from fer_tfdata import records

    arrays = records.load_split(split, ["image", "label"])
    images, labels = tf.constant(arrays["image"]), tf.constant(arrays["label"])
    return {
        "streaming_1_usual": functools.partial(_parsed_one_by_one, split),
        "streaming_2_batched": functools.partial(_parsed_in_batches, split),
        "streaming_3_permuted": functools.partial(_permuted_windows, split),
        "streaming_4_by_number": functools.partial(_ours, split, memory_budget_bytes=0),
        "memory_1_usual": functools.partial(_shuffled_slices, images, labels),
        "memory_2_permuted": functools.partial(_gathered_one_by_one, images, labels),
        "memory_3_gathered": functools.partial(_gathered_in_batches, images, labels),
        "memory_4_together": functools.partial(_ours, split, memory_budget_bytes=1 << 40),
    }


def _ours(split: Any, batch_size: int, *, memory_budget_bytes: int) -> Any:
    from fer_tfdata import pipeline

    return pipeline.train_dataset(
        split, batch_size=batch_size, seed=_SEED, memory_budget_bytes=memory_budget_bytes
    )


# Streaming.


def _records(split: Any) -> Any:
    import tensorflow as tf

    return tf.data.TFRecordDataset(split.files, buffer_size=8 << 20)


def _parse_batch(split: Any) -> Callable[[Any], tuple[Any, Any]]:
    from fer_tfdata import records

    schema = dataclasses.replace(split.schema, has_votes=False)

    def parse(serialized: Any) -> tuple[Any, Any]:
        features = records.parse_batch(serialized, schema)
        return features["image"], features["label"]

    return parse


def _parsed_one_by_one(split: Any, batch_size: int) -> Any:
    import tensorflow as tf

    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(serialized: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(serialized, features)
        pixels = tf.io.decode_raw(example["image"], tf.uint8)
        return tf.reshape(pixels, split.schema.image_shape), example["label"]

    return (
        _records(split)
        .shuffle(_SHUFFLE_BUFFER, seed=_SEED)
        .repeat()
        .map(parse, tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def _parsed_in_batches(split: Any, batch_size: int) -> Any:
    import tensorflow as tf

    return (
        _records(split)
        .shuffle(_SHUFFLE_BUFFER, seed=_SEED)
        .repeat()
        .batch(batch_size)
        .map(_parse_batch(split), tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _permuted_windows(split: Any, batch_size: int) -> Any:
    import tensorflow as tf

    parse = _parse_batch(split)

    def permute(number: Any, serialized: Any) -> tuple[Any, Any]:
        images, labels = parse(serialized)
        batches = tf.size(labels) // batch_size
        order = tf.random.experimental.stateless_shuffle(
            tf.range(tf.size(labels)), seed=tf.stack([tf.constant(_SEED, tf.int64), number])
        )[: batches * batch_size]
        return (
            tf.reshape(tf.gather(images, order), (-1, batch_size, *split.schema.image_shape)),
            tf.reshape(tf.gather(labels, order), (-1, batch_size)),
        )

    return (
        _records(split)
        .repeat()
        .batch(_WINDOW)
        .enumerate()
        .map(permute, tf.data.AUTOTUNE)
        .unbatch()
        .prefetch(tf.data.AUTOTUNE)
    )


# In memory.


def _shuffled_slices(images: Any, labels: Any, batch_size: int) -> Any:
    import tensorflow as tf

    return (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images), seed=_SEED)
        .repeat()
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _permutations(count: int) -> Any:
    """Returns the positions of endless epochs, each a permutation."""
    import tensorflow as tf

    def permutation(epoch: Any) -> Any:
        seed = tf.stack([tf.constant(_SEED, tf.int64), epoch])
        return tf.random.experimental.stateless_shuffle(tf.range(count), seed=seed)

    return tf.data.Dataset.range(_EPOCHS).map(permutation)


def _gathered_one_by_one(images: Any, labels: Any, batch_size: int) -> Any:
    import tensorflow as tf

    return (
        _permutations(len(images))
        .unbatch()
        .map(lambda position: (images[position], labels[position]), tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _gathered_in_batches(images: Any, labels: Any, batch_size: int) -> Any:
    import tensorflow as tf

    whole = len(images) // batch_size * batch_size
    return (
        _permutations(len(images))
        .map(lambda order: tf.reshape(order[:whole], (-1, batch_size)))
        .unbatch()
        .map(lambda batch: (tf.gather(images, batch), tf.gather(labels, batch)), tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _speed(build: Callable[[int], Any], batch_size: int, seconds: float) -> float:
    from fer_tfdata.dataset_options import untuned

    # As the pipeline is; without it, what is measured next may wait for the end of this.
    fetch = measure.fetching(iter(untuned(build(batch_size))))
    return measure.fetching_speed(fetch, batch_size, seconds)


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"{content['images']} images")
    measure.print_table(
        [
            "variant",
            "images/s [min, max]",
            "against the step before",
            "against the usual code",
        ],
        [
            [
                name,
                measure.spread(variant["images_per_second"]),
                *(
                    measure.times_as_fast(variant[gain]) if variant[gain] else ""
                    for gain in ("gain", "gain_over_usual")
                ),
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
