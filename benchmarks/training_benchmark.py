"""Measures how fast each network trains and classifies, and how long its steps wait for the input.

    python -m benchmarks.training_benchmark --data_dir=data

What is measured, each in an epoch of --steps steps that follows one like it in the same fit:

  ours_MODEL_PRECISION   training_model.build_training_model, which trains with fast layers, in each
                         of --precisions and in that which `auto` means here.
  stock_MODEL_PRECISION  the same network as it is, compiled alike.
  plain_MODEL_PRECISION  stock in a process in which TensorFlow makes its own choice of kernels; in
                         this one it is told what fer_tfdata tells it (docs/runs.md).  Only
                         without a GPU, which two processes would have to share.
  xla_MODEL              ours in the precision that `auto` means here, compiled by XLA.
  uncompiled_MODEL       the same without XLA; only with a GPU, for which Keras compiles ours.
  together_MODEL         ours, all steps of the epoch in one call of Keras's (steps_per_execution).
  classify_MODEL         no training: as many faces' probabilities, in float32, as prediction and
                         evaluation compute them.
  fed_MODEL              with --data_dir: ours in the precision that `auto` means here, fed as
                         training feeds it (pipeline.train_dataset, the usual augmentation).
  notebook_seed_cnn      with --data_dir: seed_cnn the way of many notebooks: stock, in float32, fed
                         by ImageDataGenerator().flow_from_directory from a folder of JPEGs.

All but the last two repeat one batch, so that no input is waited for.  What `fed` waits is the
share of its time from a step's beginning until its batch was there; of `together` that is not
known, as the clock is read for the last step of a call alone.  The networks are those for
FER2013, gray images of 48x48 and seven expressions; data of another form are refused.

TFLOP/s counts the multiplications and additions of the convolutions and dense layers, three times
the forward pass's a step of training.  The peak is that of tf.matmul of two square matrices of the
same type, measured in the same rounds.  Memory is how far the process's own memory rose above what
the imports take when it trained so, in a process of its own.
"""

import dataclasses
import functools
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from absl import flags

from benchmarks import measure
from fer_tfdata import command_line
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.train_config import MODELS, PRECISIONS, TrainConfig

NAME: Final = "training_benchmark"

_SEED: Final = 0
_PRECISIONS: Final = tuple(precision for precision in PRECISIONS if precision != "auto")
_NOTEBOOK: Final = "seed_cnn"

# A backward pass multiplies twice what the forward pass does: once for the gradients of the
# inputs, once for those of the weights.
_STEP_TO_FORWARD: Final = 3
_CLASSIFYING: Final = "classify"
_KINDS: Final = (
    "ours",
    "stock",
    "plain",
    "xla",
    "uncompiled",
    "together",
    _CLASSIFYING,
    "fed",
    "notebook",
)

_MATRIX_SECONDS: Final = 1.0
_CHAIN: Final = 16

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory that make_tfrecords wrote, of data of FER2013's form; without it nothing is "
        "fed by a pipeline.",
        flag_values=flag_values,
    )
    flags.DEFINE_list("models", list(MODELS), "Which are measured.", flag_values=flag_values)
    flags.DEFINE_list(
        "precisions",
        ["float32", "mixed_bfloat16"],
        "In which they are trained, beside the one that `auto` means here.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "kinds", list(_KINDS), "What is measured, as listed above.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "steps",
        10,
        "Steps a repeat; a GPU wants hundreds.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer("batch_size", 64, "Images a step.", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer(
        "matrix_size",
        2048,
        "Rows and columns of the matrices that the peak is measured with.",
        lower_bound=1,
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=5)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints tables and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    models = _known("models", values.models, MODELS)
    precisions = _known("precisions", values.precisions, _PRECISIONS)
    kinds = _known("kinds", values.kinds, _KINDS)
    content = measure.provenance(NAME, repeats=values.repeats)
    content |= {"steps": values.steps, "batch_size": values.batch_size}
    content |= measure_models(
        models,
        precisions,
        kinds,
        Path(values.data_dir) if values.data_dir else None,
        repeats=values.repeats,
        steps=values.steps,
        batch_size=values.batch_size,
        matrix_size=values.matrix_size,
    )
    _print_report(content)
    measure.publish(content, values.output_json)


def _known(flag: str, names: Sequence[str], known: Sequence[str]) -> list[str]:
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise InputError(
            f"--{flag}: expected some of {', '.join(known)}; received {', '.join(unknown)}"
        )
    return [name for name in known if name in names]


def measure_models(
    models: Sequence[str],
    precisions: Sequence[str],
    kinds: Sequence[str],
    data_dir: Path | None,
    *,
    repeats: int,
    steps: int,
    batch_size: int,
    matrix_size: int,
) -> dict[str, Any]:
    """Returns images a second, TFLOP/s, memory and the wait for the input of each variant.

    Raises:
      InputError: the data are not of FER2013's form, or nothing that was asked for can be measured.
    """
    from fer_tfdata import models as networks
    from fer_tfdata import precision

    if data_dir is not None:
        _check_form(data_dir)
    auto = {name: precision.choose_policy("auto", model=name) for name in models}
    trained = {
        name: [
            precision.choose_policy(each, model=name)
            for each in dict.fromkeys([*precisions, auto[name]])
        ]
        for name in models
    }
    flops = {name: forward_flops(networks.BUILDERS[name]()) for name in models}
    with tempfile.TemporaryDirectory() as temporary, _plain_process() as process:
        variants = _repeated(auto, trained, steps, batch_size)
        variants |= _plain(trained, process, steps, batch_size)
        if data_dir is not None:
            variants |= _fed(auto, data_dir, Path(temporary), steps, batch_size)
        variants = {
            name: variant for name, variant in variants.items() if name.partition("_")[0] in kinds
        }
        if not variants:
            raise InputError(
                "--kinds: expected --data_dir for fed, seed_cnn among the models as well for "
                f"notebook, no GPU for plain; received {', '.join(kinds)} alone"
            )
        multiplied = {
            f"matmul_{policy}": _multiplying(policy, matrix_size)
            for policy in PRECISIONS
            if policy in {variant.policy for variant in variants.values()}
        }
        everything: dict[str, Callable[[], Any]] = multiplied | {
            name: variant.build() for name, variant in variants.items()
        }
        for run_once in everything.values():
            run_once()  # traces, and lets the library choose its kernels
        results = measure.interleaved(everything, repeats)
    peaks = {name.removeprefix("matmul_"): results.pop(name) for name in multiplied}
    return {
        "auto": auto,
        "forward_flops_per_image": flops,
        "variants": {
            name: _describe(
                name,
                results,
                peaks[variant.policy],
                flops[variant.model] * (1 if name.startswith(_CLASSIFYING) else _STEP_TO_FORWARD),
                variant.policy,
            )
            for name, variant in variants.items()
        },
        "memory": {
            f"{kind}_{name}_{policy}": measure.in_new_process(
                _memory_of_training, kind, name, policy, batch_size
            )
            for kind in _BUILDERS
            if kind in kinds
            for name in models
            for policy in trained[name]
        },
        "peak": {
            "matrix_size": matrix_size,
            "tflops": {
                policy: measure.summary([flops / 1e12 for flops in raw])
                for policy, raw in peaks.items()
            },
        },
    }


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a variant was.

    Attributes:
      images_per_second: how fast.
      input_wait: the share of the time in which steps waited for their batches; None where
        nothing notes it.
    """

    images_per_second: float
    input_wait: float | None


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to train or to classify.

    Attributes:
      model: one of `MODELS`.
      policy: the dtype policy.
      build: returns what runs a repeat and returns its speed.
    """

    model: str
    policy: str
    build: Callable[[], Callable[[], Speed]]


def forward_flops(model: Any) -> int:
    """Returns the additions and multiplications of one image's forward pass.

    Those of the convolutions and dense layers, from their shapes: a weight multiplies and adds
    once at each position of its layer's output.  The other layers' are less than a hundredth.
    """
    flops = 0
    for layer in model.layers:
        kernels = [w for w in layer.weights if w.path.rpartition("/")[2].endswith("kernel")]
        positions = math.prod(layer.output.shape[1:-1]) if kernels else 0  # 1 for a dense layer
        flops += sum(2 * math.prod(kernel.shape) * positions for kernel in kernels)
    return flops


def fer2013_schema() -> Any:
    """Returns what FER2013's records hold."""
    from fer_tfdata import records

    return records.Schema(image_shape=(48, 48, 1), expressions=EXPRESSIONS)


def _check_form(data_dir: Path) -> None:
    """Refuses data of another form than the networks' here, whose operations are counted."""
    from fer_tfdata import records

    expected, received = fer2013_schema(), records.open_split(data_dir, "train").schema
    if dataclasses.replace(received, has_votes=False) != expected:
        raise InputError(
            f"{data_dir}: expected {_form(expected)}, which FER2013 has, received "
            f"{_form(received)}; convert FER2013 for this, or leave out --data_dir"
        )


def _form(schema: Any) -> str:
    shape = "x".join(map(str, schema.image_shape))
    return f"images of {shape} and {len(schema.expressions)} expressions"


def repeated_batch(batch_size: int, schema: Any) -> Any:
    """Returns a dataset of one random batch, over and over."""
    import tensorflow as tf

    from fer_tfdata.dataset_options import untuned

    rng = np.random.default_rng(_SEED)
    images = rng.integers(0, 256, (batch_size, *schema.image_shape), np.uint8)
    labels = rng.integers(0, len(schema.expressions), batch_size, np.int64)
    return untuned(tf.data.Dataset.from_tensors((images, labels)).repeat().prefetch(2))


# The variants.


def _repeated(
    auto: Mapping[str, str], trained: Mapping[str, Sequence[str]], steps: int, batch_size: int
) -> dict[str, Variant]:
    """Returns the variants that repeat a batch."""
    batches = repeated_batch(batch_size, fer2013_schema())

    def fitting(make: Callable[..., Any], name: str, policy: str, **options: Any) -> Variant:
        return Variant(
            name,
            policy,
            lambda: _fitting(make(name, policy, **options), batches, steps, batch_size),
        )

    def classifying(name: str, policy: str) -> Variant:
        return Variant(
            name, policy, lambda: _classifying(_stock_model(name, policy), steps, batch_size)
        )

    variants = {}
    for name, policies in trained.items():
        for policy in policies:
            variants[f"ours_{name}_{policy}"] = fitting(_our_model, name, policy)
            variants[f"stock_{name}_{policy}"] = fitting(_stock_model, name, policy)
        variants[f"xla_{name}"] = fitting(_our_model, name, auto[name], jit_compile=True)
        if _has_gpu():
            variants[f"uncompiled_{name}"] = fitting(
                _our_model, name, auto[name], jit_compile=False
            )
        variants[f"together_{name}"] = fitting(
            _our_model, name, auto[name], steps_per_execution=steps
        )
        variants[f"{_CLASSIFYING}_{name}"] = classifying(name, "float32")
    return variants


def _plain_process() -> ProcessPoolExecutor:
    """Returns a process in which TensorFlow chooses its kernels; it starts when it is needed."""
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_leave_tensorflow_its_choice,
    )


def _leave_tensorflow_its_choice() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    command_line.import_tensorflow_quietly()


def _end_with_the_parent() -> None:
    """Ends this process when its parent is gone; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _plain(
    trained: Mapping[str, Sequence[str]], process: Executor, steps: int, batch_size: int
) -> dict[str, Variant]:
    """Returns the variants that `process` runs."""
    if _has_gpu():
        return {}

    def fitting(name: str, policy: str) -> Callable[[], Speed]:
        return lambda: process.submit(_plain_speed, name, policy, steps, batch_size).result()

    return {
        f"plain_{name}_{policy}": Variant(name, policy, functools.partial(fitting, name, policy))
        for name, policies in trained.items()
        for policy in policies
    }


def _plain_speed(name: str, policy: str, steps: int, batch_size: int) -> Speed:
    return _plain_fitting(name, policy, steps, batch_size)()


@functools.cache
def _plain_fitting(name: str, policy: str, steps: int, batch_size: int) -> Callable[[], Speed]:
    batches = repeated_batch(batch_size, fer2013_schema())
    return _fitting(_stock_model(name, policy), batches, steps, batch_size)


def _fed(
    auto: Mapping[str, str], data_dir: Path, directory: Path, steps: int, batch_size: int
) -> dict[str, Variant]:
    """Returns the variants that learn from a data directory's images."""

    def feed(name: str) -> Callable[[], Speed]:
        from fer_tfdata import records, training_batches, training_model

        split = records.open_split(data_dir, "train")
        config = TrainConfig(data_dir=str(data_dir), model=name, batch_size=batch_size, seed=_SEED)
        model = training_model.build_training_model(
            config, auto[name], split.schema, steps_per_epoch=steps
        )
        batches = training_batches.train_batches(config, split, model, start_step=0)
        return _fitting(model, batches, steps, batch_size)

    def feed_as_the_notebook() -> Callable[[], Speed]:
        from benchmarks import pipeline_peers

        inputs = pipeline_peers.open_inputs(data_dir, directory, batch_size)
        pipeline_peers.write_image_files(inputs)
        batches = pipeline_peers.images_from_directory(inputs)
        return _fitting(_stock_model(_NOTEBOOK, "float32"), batches, steps, batch_size)

    variants = {
        f"fed_{name}": Variant(name, policy, functools.partial(feed, name))
        for name, policy in auto.items()
    }
    if _NOTEBOOK in auto:
        variants[f"notebook_{_NOTEBOOK}"] = Variant(_NOTEBOOK, "float32", feed_as_the_notebook)
    return variants


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _our_model(name: str, policy: str, **changes: Any) -> Any:
    """Returns the network that `tools.train` trains, with attributes of Keras's changed."""
    from fer_tfdata import training_model

    config = TrainConfig(data_dir="", model=name)
    model = training_model.build_training_model(config, policy, fer2013_schema(), steps_per_epoch=1)
    for attribute, value in changes.items():
        setattr(model, attribute, value)
    return model


def _stock_model(name: str, policy: str) -> Any:
    import keras

    from fer_tfdata import models, precision

    with precision.policy_scope(policy):
        model = models.BUILDERS[name]()
        model.compile(
            optimizer=keras.optimizers.Adam(TrainConfig.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def _fitting(model: Any, batches: Any, steps: int, batch_size: int) -> Callable[[], Speed]:
    """Returns what trains for two epochs and returns the speed of the second."""

    def fit() -> Speed:
        epoch = measure.train_epoch(model, batches, steps)
        waited = epoch.seconds_waited
        return Speed(
            images_per_second=steps * batch_size / epoch.seconds,
            input_wait=None if waited is None else waited / epoch.seconds,
        )

    return fit


def _classifying(model: Any, steps: int, batch_size: int) -> Callable[[], Speed]:
    """Returns what classifies random faces, a batch a step, and returns the speed."""
    from fer_tfdata.classifier import KerasClassifier

    classifier = KerasClassifier(model)
    shape = (batch_size, *classifier.image_shape)
    images = np.random.default_rng(_SEED).integers(0, 256, shape, np.uint8)

    def classify() -> Speed:
        start = time.perf_counter()
        for _ in range(steps):
            classifier.probabilities(images)
        seconds = time.perf_counter() - start
        return Speed(images_per_second=steps * batch_size / seconds, input_wait=None)

    return classify


_BUILDERS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "ours": _our_model,
    "stock": _stock_model,
}


def _memory_of_training(
    kind: str, name: str, policy: str, batch_size: int
) -> dict[str, Any] | None:
    """Returns what memory a few steps take in this process, which is to be a new one."""
    command_line.import_tensorflow_quietly()
    from fer_tfdata import training_model  # noqa: F401  # what the imports take is no cost of training

    def train() -> None:
        model = _BUILDERS[kind](name, policy)
        model.fit(repeated_batch(batch_size, fer2013_schema()), steps_per_epoch=3, verbose=0)

    return measure.memory_of(train)[1]


def _multiplying(policy: str, size: int) -> Callable[[], float]:
    """Returns what multiplies square matrices for a second and returns the FLOP/s."""
    import tensorflow as tf

    rng = np.random.default_rng(_SEED)
    dtype = policy.removeprefix("mixed_")
    # Of this size the products neither grow nor vanish.
    factor = tf.cast(rng.normal(size=(size, size)) / math.sqrt(size), dtype)
    start_value = tf.cast(rng.normal(size=(size, size)), dtype)

    @tf.function
    def chain(product: tf.Tensor) -> tf.Tensor:
        for _ in range(_CHAIN):
            product = tf.matmul(product, factor)
        return product

    def seconds_of(chains: int) -> float:
        start = time.perf_counter()
        product = start_value
        for _ in range(chains):
            product = chain(product)
        product[0, 0].numpy()  # waits for a GPU
        return time.perf_counter() - start

    def multiply() -> float:
        chains = max(1, math.ceil(_MATRIX_SECONDS / seconds_of(1)))
        return chains * _CHAIN * 2 * size**3 / seconds_of(chains)

    return multiply


def _describe(
    name: str,
    results: Mapping[str, Sequence[Speed]],
    peak_flops: Sequence[float],
    flops_per_image: int,
    policy: str,
) -> dict[str, Any]:
    speeds = [speed.images_per_second for speed in results[name]]
    flops = [speed * flops_per_image for speed in speeds]
    waits = [speed.input_wait for speed in results[name] if speed.input_wait is not None]
    described = {
        "images_per_second": measure.summary(speeds),
        "tflops": measure.summary([value / 1e12 for value in flops]),
        "share_of_matmul_peak": measure.ratios(flops, peak_flops),
    }
    if waits and not name.startswith("together_"):
        described["input_wait"] = measure.summary(waits)
    for other in _baselines(name, policy):
        if other in results:
            others = [speed.images_per_second for speed in results[other]]
            described[f"ratio_to_{other}"] = measure.ratios(speeds, others)
    return described


def _baselines(name: str, policy: str) -> list[str]:
    """Returns what a variant is compared with: stock, as it is, plain and in float32."""
    kind, _, rest = name.partition("_")
    if kind in ("xla", "uncompiled", "together"):
        return [f"ours_{rest}_{policy}"]
    if kind == "stock":
        return [f"plain_{rest}"]
    if kind != "ours":
        return []
    model = next(model for model in MODELS if rest.startswith(model))
    notebook = [f"notebook_{model}"] if model == _NOTEBOOK else []
    stock = [f"stock_{rest}", f"stock_{model}_float32", f"plain_{rest}"]
    return [*dict.fromkeys(stock), *notebook]


# Reporting.


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"batches of {content['batch_size']}, {content['steps']} steps a repeat")
    measure.print_table(
        ["variant", "images/s [min, max]", "TFLOP/s", "of the peak", "waits", "memory MB"],
        [
            [
                name,
                measure.spread(variant["images_per_second"], digits=1),
                f"{variant['tflops']['median']:.3f}",
                f"{variant['share_of_matmul_peak']['median']:.1%}",
                f"{variant['input_wait']['median']:.1%}" if "input_wait" in variant else "",
                _megabytes(content["memory"].get(name)),
            ]
            for name, variant in content["variants"].items()
        ],
    )
    for name, variant in content["variants"].items():
        for key, ratio in variant.items():
            if key.startswith("ratio_to_"):
                other = key.removeprefix("ratio_to_")
                print(f"{name} against {other}: {measure.times_as_fast(ratio)}")
    size = content["peak"]["matrix_size"]
    for policy, tflops in content["peak"]["tflops"].items():
        print(f"matmul {size}x{size} for {policy}: {measure.spread(tflops, digits=3)} TFLOP/s")
    print()


def _megabytes(memory: Mapping[str, Any] | None) -> str:
    return "" if memory is None else f"{memory['risen_anonymous_bytes'] / 1e6:,.0f}"


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
