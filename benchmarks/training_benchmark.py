"""Measures how fast model.fit trains seed_cnn, and how long its steps wait for the input.

    python -m benchmarks.training_benchmark --data_dir=data

What is measured, each in an epoch of --steps steps that follows one like it in the same fit:

  ours_*          training.build_training_model, which trains with fast layers.
  stock_*         models.seed_cnn as it is, compiled alike.
  *_float32, *_mixed_bfloat16
                  the dtype policy.

All of them repeat one batch, so that no input is waited for.  With --data_dir, ours also trains
under the policy that `auto` means here, once fed as training feeds it (pipeline.train_dataset
with its usual augmentation) and once with the repeated batch; the ratio is the input's cost.

TFLOP/s counts the multiplications and additions of the convolutions and dense layers, three times
the forward pass's a step.  The peak is that of tf.matmul of two square matrices of the same type,
measured in the same rounds.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from absl import flags

from benchmarks import measure
from fer_tfdata import command_line
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.expressions import EXPRESSIONS

NAME: Final = "training_benchmark"
INPUT_TARGET: Final = 0.97

_SEED: Final = 0
_POLICIES: Final = ("float32", "mixed_bfloat16")
_BASELINE: Final = "stock_float32"

# A backward pass multiplies twice what the forward pass does: once for the gradients of the
# inputs, once for those of the weights.
_STEP_TO_FORWARD: Final = 3

_MATRIX_SECONDS: Final = 1.0
_CHAIN: Final = 16

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory that make_tfrecords wrote; without it the input's cost is not measured.",
        flag_values=flag_values,
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
    content = measure.provenance(NAME, repeats=values.repeats)
    content |= {"steps": values.steps, "batch_size": values.batch_size}
    if values.data_dir:  # first, since it finds out whether the data are there
        content["input"] = measure_input_cost(
            Path(values.data_dir),
            repeats=values.repeats,
            steps=values.steps,
            batch_size=values.batch_size,
        )
    content |= measure_layers(
        repeats=values.repeats,
        steps=values.steps,
        batch_size=values.batch_size,
        matrix_size=values.matrix_size,
    )
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_layers(
    *, repeats: int, steps: int, batch_size: int, matrix_size: int
) -> dict[str, Any]:
    """Returns images a second and TFLOP/s of fast and stock layers in both precisions."""
    schema = fer2013_schema()
    batches = repeated_batch(batch_size, schema)
    models = {
        f"{kind}_{policy}": build(policy)
        for policy in _POLICIES
        for kind, build in (
            ("stock", _stock_model),
            ("ours", lambda policy: _our_model(policy, schema)),
        )
    }
    variants = {name: _fitting(model, batches, steps) for name, model in models.items()}
    variants |= {f"matmul_{policy}": _multiplying(policy, matrix_size) for policy in _POLICIES}
    for variant in variants.values():
        variant()  # traces, and lets the library choose its kernels
    results = measure.interleaved(variants, repeats)

    flops_per_image = _STEP_TO_FORWARD * forward_flops(models[_BASELINE])
    peaks = {policy: results.pop(f"matmul_{policy}") for policy in _POLICIES}
    return {
        "forward_flops_per_image": flops_per_image // _STEP_TO_FORWARD,
        "variants": {
            name: _describe(raw, results[_BASELINE], peaks[name.partition("_")[2]], flops_per_image)
            for name, raw in results.items()
        },
        "peak": {
            "matrix_size": matrix_size,
            "tflops": {
                policy: measure.summary([flops / 1e12 for flops in raw])
                for policy, raw in peaks.items()
            },
        },
    }


def measure_input_cost(
    data_dir: Path, *, repeats: int, steps: int, batch_size: int
) -> dict[str, Any]:
    """Returns images a second of `fit` on the pipeline and on one repeated batch, and the ratio."""
    from fer_tfdata import augmentation, pipeline, precision, records

    policy = precision.choose_policy("auto")
    split = records.open_split(data_dir, "train")
    fed = pipeline.train_dataset(
        split,
        batch_size=batch_size,
        seed=_SEED,
        augment=functools.partial(
            augmentation.augment,
            config=AugmentationConfig(),
            num_classes=len(split.schema.expressions),
        ),
    )
    model = _our_model(policy, split.schema)
    variants = {
        "pipeline": _fitting(model, fed, steps),
        "repeated_batch": _fitting(model, repeated_batch(batch_size, split.schema), steps),
    }
    for variant in variants.values():
        variant()
    results = measure.interleaved(variants, repeats)
    return {
        "policy": policy,
        "variants": {
            name: {"images_per_second": measure.summary(raw)} for name, raw in results.items()
        },
        "pipeline_to_repeated_batch": measure.ratios(
            results["pipeline"], results["repeated_batch"]
        ),
        "target": INPUT_TARGET,
    }


def forward_flops(model: Any) -> int:
    """Returns the additions and multiplications of one image's forward pass.

    Those of the convolutions and dense layers, from their shapes: a weight multiplies and adds
    once at each position of its layer's output.  The other layers' are less than a hundredth.
    """
    flops = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            positions = math.prod(layer.output.shape[1:-1])  # 1 for a dense layer
            flops += 2 * math.prod(layer.kernel.shape) * positions
    return flops


def fer2013_schema() -> Any:
    """Returns what FER2013's records hold."""
    from fer_tfdata import records

    return records.Schema(image_shape=(48, 48, 1), expressions=EXPRESSIONS)


def repeated_batch(batch_size: int, schema: Any) -> Any:
    """Returns a dataset of one random batch, over and over."""
    import tensorflow as tf

    rng = np.random.default_rng(_SEED)
    images = rng.integers(0, 256, (batch_size, *schema.image_shape), np.uint8)
    labels = rng.integers(0, len(schema.expressions), batch_size, np.int64)
    return tf.data.Dataset.from_tensors((images, labels)).repeat().prefetch(tf.data.AUTOTUNE)


# The variants.


def _our_model(policy: str, schema: Any) -> Any:
    from fer_tfdata import training
    from fer_tfdata.train_config import TrainConfig

    config = TrainConfig(data_dir="", model="seed_cnn")
    return training.build_training_model(config, policy, schema, steps_per_epoch=1)


def _stock_model(policy: str) -> Any:
    import keras

    from fer_tfdata import models, precision
    from fer_tfdata.train_config import TrainConfig

    with precision.policy_scope(policy):
        model = models.seed_cnn()
        model.compile(
            optimizer=keras.optimizers.Adam(TrainConfig.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def _fitting(model: Any, batches: Any, steps: int) -> Callable[[], float]:
    """Returns what trains for two epochs and returns the images a second of the second."""
    images = steps * int(batches.element_spec[1].shape[0])
    return lambda: images / measure.epoch_seconds(model, batches, steps)


def _multiplying(policy: str, size: int) -> Callable[[], float]:
    """Returns what multiplies square matrices for a second and returns the FLOP/s."""
    import tensorflow as tf

    rng = np.random.default_rng(_SEED)
    dtype = "bfloat16" if policy == "mixed_bfloat16" else policy
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
    images_per_second: Sequence[float],
    baseline: Sequence[float],
    peak_flops: Sequence[float],
    flops_per_image: int,
) -> dict[str, Any]:
    flops = [speed * flops_per_image for speed in images_per_second]
    return {
        "images_per_second": measure.summary(images_per_second),
        f"ratio_to_{_BASELINE}": measure.ratios(images_per_second, baseline),
        "tflops": measure.summary([value / 1e12 for value in flops]),
        "share_of_matmul_peak": measure.ratios(flops, peak_flops),
    }


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"seed_cnn, batches of {content['batch_size']}, {content['steps']} steps a repeat")
    measure.print_table(
        [
            "variant",
            "images/s [min, max]",
            f"against {_BASELINE}",
            "TFLOP/s [min, max]",
            "of the matmul peak",
        ],
        [
            [
                name,
                measure.spread(variant["images_per_second"], digits=1),
                measure.times_as_fast(variant[f"ratio_to_{_BASELINE}"]),
                measure.spread(variant["tflops"], digits=3),
                f"{variant['share_of_matmul_peak']['median']:.1%}",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    size = content["peak"]["matrix_size"]
    for policy, tflops in content["peak"]["tflops"].items():
        print(f"matmul {size}x{size} for {policy}: {measure.spread(tflops, digits=3)} TFLOP/s")
    if "input" in content:
        _print_input_cost(content["input"])
    print()


def _print_input_cost(content: Mapping[str, Any]) -> None:
    print(f"\nThe input's cost, ours in {content['policy']}")
    measure.print_table(
        ["fed by", "images/s [min, max]"],
        [
            [name, measure.spread(variant["images_per_second"], digits=1)]
            for name, variant in content["variants"].items()
        ],
    )
    ratio = content["pipeline_to_repeated_batch"]
    verdict = "met" if ratio["median"] >= content["target"] else "MISSED"
    print(
        f"pipeline to repeated batch: {measure.spread(ratio, digits=1, factor=100)} %; "
        f"target, at least {content['target']:.0%}: {verdict}"
    )


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
