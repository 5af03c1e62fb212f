"""The ways to feed a model that `pipeline_benchmark` races, each as its own users would write it.

A feed yields batches, images first and labels second, without end; who closes it ends what it
started.  TensorFlow and the peers are imported where they are used: not all are there.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image

from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS

SEED: Final = 0
_SHUFFLE_BUFFER: Final = 10_000
_BATCHES_AHEAD: Final = 16

_OUR_MODULES: Final = ("fer_tfdata.augmentation", "fer_tfdata.pipeline")
_DALI_MODULES: Final = (
    "nvidia.dali",
    "nvidia.dali.fn",
    "nvidia.dali.tfrecord",
    "nvidia.dali.types",
)

Feed = Iterator[tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the feeds read.

    Attributes:
      split: the training split, as `records.open_split` returns it.
      images: uint8 [n, height, width, channels], those of the split.
      labels: int64 [n].
      directory: with `png/`, `jpeg/`, and what `prepare` of a peer puts there.
      batch_size: images a batch.
    """

    split: Any
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    directory: Path
    batch_size: int


def open_inputs(data_dir: Path, directory: Path, batch_size: int) -> Inputs:
    """Loads the training split of a data directory.

    Raises:
      InputError: its images are not gray or its expressions not the seven: some peers would fail,
        and others would do less work or more than the rest.
    """
    from fer_tfdata import records

    split = records.open_split(data_dir, "train")
    channels, expressions = split.schema.image_shape[2], split.schema.expressions
    if channels != 1 or expressions != EXPRESSIONS:
        raise InputError(
            f"{data_dir}: expected gray images of {len(EXPRESSIONS)} expressions, which all the "
            f"ways to feed can read; received {channels} channels and {len(expressions)} "
            "expressions; convert FER2013 for this"
        )
    arrays = records.load_split(split)
    return Inputs(
        split=split,
        images=arrays["image"],
        labels=arrays["label"],
        directory=directory,
        batch_size=batch_size,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """A way to feed a model.

    Attributes:
      feed: makes the batches.
      note: what a comparison must know.
      modules: what it imports, so that this can be done before the clock starts.
      prepare: writes what it reads, once and untimed.
      image_files: whether it reads those of `write_image_files`.
    """

    feed: Callable[[Inputs], Feed]
    note: str
    modules: Sequence[str] = ()
    prepare: Callable[[Inputs], None] | None = None
    image_files: bool = False


def write_image_files(inputs: Inputs) -> None:
    """Writes `png/<expression>/<number>.png` and `jpeg/<expression>/<number>.jpg`.

    Raises:
      InputError: the directory holds something already.
    """
    directory = inputs.directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: expected an empty or no directory, received one in use")
    for kind, suffix in (("png", ".png"), ("jpeg", ".jpg")):
        for expression in EXPRESSIONS:
            (directory / kind / expression).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(inputs.images, inputs.labels, strict=True)):
            path = directory / kind / EXPRESSIONS[label] / f"{number:05d}{suffix}"
            Image.fromarray(image[:, :, 0]).save(path)


# This project.


def _ours(inputs: Inputs, *, memory_budget_bytes: int, augmented: bool) -> Feed:
    from fer_tfdata import augmentation, pipeline
    from fer_tfdata.augmentation_config import AugmentationConfig

    augment = functools.partial(
        augmentation.augment,
        config=AugmentationConfig(shift=0.1, rotation=15, zoom=0.1),
        num_classes=len(inputs.split.schema.expressions),
    )
    dataset = pipeline.train_dataset(
        inputs.split,
        batch_size=inputs.batch_size,
        seed=SEED,
        memory_budget_bytes=memory_budget_bytes,
        augment=augment if augmented else None,
    )
    return iter(dataset)


# TensorFlow and Keras.


def _image_dataset(inputs: Inputs) -> Feed:
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        inputs.directory / "png",
        class_names=list(EXPRESSIONS),
        color_mode="grayscale",
        image_size=inputs.split.schema.image_shape[:2],
        batch_size=inputs.batch_size,
        shuffle=True,
        seed=SEED,
        verbose=False,
    )
    return iter(dataset.repeat())


def images_from_directory(inputs: Inputs) -> Any:
    """Returns batches the way of many notebooks, from the JPEGs that `write_image_files` wrote."""
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator()
    # It prints how many files it found, and stdout is for the results.
    with contextlib.redirect_stdout(io.StringIO()):
        images = generator.flow_from_directory(
            inputs.directory / "jpeg",
            classes=list(EXPRESSIONS),
            color_mode="grayscale",
            target_size=inputs.split.schema.image_shape[:2],
            batch_size=inputs.batch_size,
            class_mode="sparse",
            shuffle=True,
            seed=SEED,
        )
    images.workers = joblib.cpu_count()
    return images


def _image_generator(inputs: Inputs) -> Feed:
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    return _epochs_of_adapter(PyDatasetAdapter(images_from_directory(inputs), shuffle=True))


def _py_dataset(inputs: Inputs) -> Feed:
    import keras
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    class Batches(keras.utils.PyDataset):
        """Slices of arrays."""

        def __len__(self) -> int:
            return len(inputs.images) // inputs.batch_size

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            batch = slice(index * inputs.batch_size, (index + 1) * inputs.batch_size)
            return inputs.images[order[batch]], inputs.labels[order[batch]]

        def on_epoch_end(self) -> None:
            rng.shuffle(order)

    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(inputs.images))
    # One worker, Keras's own choice: more of them are slower here.
    return _epochs_of_adapter(PyDatasetAdapter(Batches(), shuffle=False))


def _fit_numpy(inputs: Inputs) -> Feed:
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

    adapter = ArrayDataAdapter(
        inputs.images, inputs.labels, batch_size=inputs.batch_size, shuffle=True
    )
    return _epochs_of_adapter(adapter)


def _epochs_of_adapter(adapter: Any) -> Feed:
    """Iterates as `fit` does: over one dataset, once an epoch."""
    dataset = adapter.get_tf_dataset()
    while True:
        adapter.on_epoch_begin()
        try:
            yield from itertools.islice(iter(dataset), adapter.num_batches)
        finally:
            adapter.on_epoch_end()


def _tfds(inputs: Inputs, *, cached: bool) -> Feed:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(inputs.split.directory)
    dataset = builder.as_dataset(split=inputs.split.name, shuffle_files=True, as_supervised=True)
    if cached:
        dataset = dataset.cache().shuffle(len(inputs.images), seed=SEED)
    else:
        dataset = dataset.shuffle(_SHUFFLE_BUFFER, seed=SEED)
    return iter(dataset.repeat().batch(inputs.batch_size).prefetch(tf.data.AUTOTUNE))


# DALI.


def _index_shards(inputs: Inputs) -> None:
    """Writes what DALI's tfrecord2idx writes, without its import of TensorFlow for each file."""
    from fer_tfdata.records import FRAME_BYTES

    indices = inputs.directory / "dali_index"
    indices.mkdir()
    for file in inputs.split.files:
        content = Path(file).read_bytes()
        lines, offset = [], 0
        while offset < len(content):
            size = int.from_bytes(content[offset : offset + 8], "little") + FRAME_BYTES
            lines.append(f"{offset} {size}\n")
            offset += size
        (indices / Path(file).name).write_text("".join(lines), encoding="ascii")


def _dali_records(inputs: Inputs) -> Feed:
    from nvidia.dali import fn, tfrecord

    shape = inputs.split.schema.image_shape
    files = inputs.split.files

    def define() -> tuple[Any, Any]:
        features = fn.readers.tfrecord(
            path=files,
            index_path=[str(inputs.directory / "dali_index" / Path(f).name) for f in files],
            features={
                "image": tfrecord.FixedLenFeature((), tfrecord.string, ""),
                "label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
            },
            random_shuffle=True,
            initial_fill=_SHUFFLE_BUFFER,
            seed=SEED,
        )
        return fn.reshape(features["image"], shape=list(shape)), features["label"]

    return _run_dali(define, inputs.batch_size)


def _dali_images(inputs: Inputs) -> Feed:
    from nvidia.dali import fn, types

    def define() -> tuple[Any, Any]:
        encoded, labels = fn.readers.file(
            file_root=str(inputs.directory / "png"),
            shuffle_after_epoch=True,
            seed=SEED,
        )
        return fn.decoders.image(encoded, output_type=types.GRAY), labels

    # DALI counts the folders in alphabetical order.
    label_of = np.array([EXPRESSIONS.index(name) for name in sorted(EXPRESSIONS)])
    feed = _run_dali(define, inputs.batch_size)
    try:
        for images, labels in feed:
            yield images, label_of[labels]
    finally:
        feed.close()


def _run_dali(define: Callable[[], tuple[Any, Any]], batch_size: int) -> Generator[Any, None, None]:
    from nvidia.dali import Pipeline

    pipeline = Pipeline(batch_size, joblib.cpu_count(), device_id=None, prefetch_queue_depth=4)
    with pipeline:
        pipeline.set_outputs(*define())
    pipeline.build()
    try:
        while True:
            images, labels = pipeline.run()
            yield images.as_array(), labels.as_array().reshape(-1)
    finally:
        del pipeline


# grain.


def _grain_memory(inputs: Inputs) -> Feed:
    import grain

    # Batches of positions, and one indexing a batch: a call an image would be the whole cost.
    dataset = (
        grain.MapDataset.range(len(inputs.images))
        .shuffle(seed=SEED)
        .repeat()
        .batch(inputs.batch_size)
        .map(lambda batch: (inputs.images[batch], inputs.labels[batch]))
    )
    # One thread more than none gains nothing where Python's lock is held.
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def _write_array_record(inputs: Inputs) -> None:
    from array_record.python import array_record_module

    # group_size 1 is what grain's documents ask for, for random access.
    writer = array_record_module.ArrayRecordWriter(
        str(inputs.directory / "train.array_record"), "group_size:1,uncompressed"
    )
    for image, label in zip(inputs.images, inputs.labels, strict=True):
        writer.write(image.tobytes() + bytes([label]))
    writer.close()


def _grain_array_record(inputs: Inputs) -> Feed:
    import grain

    shape = inputs.images.shape[1:]

    def parse(serialized: Sequence[bytes]) -> tuple[Any, Any]:
        together = np.frombuffer(b"".join(serialized), np.uint8).reshape(len(serialized), -1)
        return together[:, :-1].reshape(-1, *shape), together[:, -1].astype(np.int64)

    source = grain.sources.ArrayRecordDataSource(str(inputs.directory / "train.array_record"))
    dataset = (
        grain.MapDataset.source(source)
        .shuffle(seed=SEED)
        .repeat()
        .batch(inputs.batch_size, batch_fn=parse)
    )
    # A thread a core: neither none, nor more of them, nor processes are faster here.
    return iter(
        dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=joblib.cpu_count(), prefetch_buffer_size=_BATCHES_AHEAD)
        )
    )


# PyTorch.


def _torch_folder(inputs: Inputs) -> Feed:
    import torch

    loader = torch.utils.data.DataLoader(
        _ImageFolder(inputs.directory / "png"),
        batch_size=inputs.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=joblib.cpu_count(),
        persistent_workers=True,
        # Forked workers of a process that has run TensorFlow hang.
        multiprocessing_context="forkserver",
        generator=torch.Generator().manual_seed(SEED),
    )
    epoch = iter(loader)
    try:
        while True:
            yield from epoch
            epoch = iter(loader)
    finally:
        epoch._shutdown_workers()  # else they stay until the garbage is collected


class _ImageFolder:
    """A map-style dataset over image files, read as torchvision's ImageFolder reads them.

    That one would need torchvision for no more than a list of files and a call of Pillow.
    """

    def __init__(self, directory: Path) -> None:
        self._files = sorted(directory.glob("*/*"))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path = self._files[index]
        with Image.open(path) as image:
            return np.array(image)[:, :, np.newaxis], EXPRESSIONS.index(path.parent.name)


# Ceilings.


def _numpy_permutation(inputs: Inputs) -> Feed:
    return permuted_batches(inputs.images, inputs.labels, inputs.batch_size)


def permuted_batches(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], batch_size: int
) -> Feed:
    """Yields what NumPy indexes with a permutation an epoch, without end."""
    rng = np.random.default_rng(SEED)
    while True:
        order = rng.permutation(len(images))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            batch = order[start : start + batch_size]
            yield images[batch], labels[batch]


def _memory_bandwidth(inputs: Inputs) -> Feed:
    # So large that no cache holds it.
    source = np.resize(inputs.images, (max(len(inputs.images), 100_000), *inputs.images.shape[1:]))
    target = np.empty_like(source)
    labels = np.resize(inputs.labels, len(source))
    while True:
        np.copyto(target, source)
        yield target, labels


PEERS: Final[Mapping[str, Peer]] = {
    "ours_in_memory": Peer(
        feed=functools.partial(_ours, memory_budget_bytes=1 << 60, augmented=False),
        modules=_OUR_MODULES,
        note="this pipeline, the split held in memory",
    ),
    "ours_streaming": Peer(
        feed=functools.partial(_ours, memory_budget_bytes=0, augmented=False),
        modules=_OUR_MODULES,
        note="this pipeline, from the shards, checksums checked; shuffles the shards and windows",
    ),
    "ours_in_memory_augmented": Peer(
        feed=functools.partial(_ours, memory_budget_bytes=1 << 60, augmented=True),
        modules=_OUR_MODULES,
        note="ours_in_memory with flip, shift 10 %, rotation 15 degrees, zoom 10 %",
    ),
    "ours_streaming_augmented": Peer(
        feed=functools.partial(_ours, memory_budget_bytes=0, augmented=True),
        modules=_OUR_MODULES,
        note="ours_streaming with flip, shift 10 %, rotation 15 degrees, zoom 10 %",
    ),
    "image_dataset": Peer(
        feed=_image_dataset,
        image_files=True,
        modules=("keras",),
        note="image_dataset_from_directory over PNG; shuffles once, then a buffer of 8 batches",
    ),
    "image_generator": Peer(
        feed=_image_generator,
        image_files=True,
        modules=("keras", "tensorflow.keras"),
        note="ImageDataGenerator().flow_from_directory over JPEG",
    ),
    "py_dataset": Peer(
        feed=_py_dataset,
        modules=("keras",),
        note="keras.utils.PyDataset over arrays, as fit takes it",
    ),
    "fit_numpy": Peer(feed=_fit_numpy, modules=("keras",), note="what fit makes of arrays"),
    "tfds": Peer(
        feed=functools.partial(_tfds, cached=False),
        modules=("tensorflow_datasets",),
        note="tfds.load of our shards, shuffle(10,000), batch, prefetch",
    ),
    "tfds_cached": Peer(
        feed=functools.partial(_tfds, cached=True),
        modules=("tensorflow_datasets",),
        note="tfds.load of our shards, cache(), shuffled as a whole, batch, prefetch",
    ),
    "dali_records": Peer(
        feed=_dali_records,
        prepare=_index_shards,
        modules=_DALI_MODULES,
        note="DALI on the CPU, our shards; no checksums; shuffles a buffer of 10,000",
    ),
    "dali_images": Peer(
        feed=_dali_images,
        image_files=True,
        modules=_DALI_MODULES,
        note="DALI on the CPU, PNG; shuffles each epoch anew",
    ),
    "grain_memory": Peer(
        feed=_grain_memory, modules=("grain",), note="grain over positions of arrays"
    ),
    "grain_array_record": Peer(
        feed=_grain_array_record,
        prepare=_write_array_record,
        modules=("grain", "array_record.python.array_record_module"),
        note="grain over ArrayRecord, raw bytes",
    ),
    "torch_folder": Peer(
        feed=_torch_folder,
        image_files=True,
        modules=("torch",),
        note="PyTorch's DataLoader over PNG files, Pillow, a process a core",
    ),
    "numpy_permutation": Peer(
        feed=_numpy_permutation, note="NumPy indexing with a permutation: the ceiling"
    ),
    "memory_bandwidth": Peer(
        feed=_memory_bandwidth, note="copying an array in order, by one thread"
    ),
}
