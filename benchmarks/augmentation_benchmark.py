"""Measures what the augmentation of training images costs, alone and as part of a training step.

    python -m benchmarks.augmentation_benchmark --data_dir=data

What is measured alone, in pipeline.train_dataset over the training split in memory:

  none, flip, shift, rotation, zoom, brightness, contrast, erasing, mixup, cutmix
                  augmentation.augment with this change and no other.
  warp            shift, rotation and zoom, which augmentation.augment does in one resampling.
  three_passes    the same three changes one after the other, a resampling each.
  keras_layers    the same by keras.layers.RandomTranslation, RandomRotation and RandomZoom.
  all             everything together.

What is measured of model.fit, each in an epoch of --steps steps that follows one like it in the
same fit of seed_cnn under the policy that `auto` means here:

  none            without augmentation.
  input           warp with flip, in the input pipeline.
  device          warp with flip, in the training step.

The cost is the time that a step takes more than one without, pair by pair of the same round.  Where
steps vary by more than the target, the work says more: the time that a step's images take alone in
the pipeline, as a share of the step without augmentation.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from absl import flags

from benchmarks import measure
from fer_tfdata import command_line
from fer_tfdata.augmentation_config import AugmentationConfig

NAME: Final = "augmentation_benchmark"
COST_TARGET: Final = 0.05

_SEED: Final = 0
_NONE: Final = "none"
_WARP: Final[Mapping[str, float]] = {"shift": 0.1, "rotation": 15.0, "zoom": 0.1}
_OTHERS: Final[Mapping[str, float]] = {
    "brightness": 0.2,
    "contrast": 0.2,
    "erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    measure.define_feeding_flags(flag_values, seconds=3.0)
    flags.DEFINE_integer(
        "batch_size",
        256,
        "Images a batch where no model is trained.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "steps",
        10,
        "Steps a repeat of training; a GPU wants hundreds.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "step_batch_size",
        64,
        "Images a batch of training.",
        lower_bound=1,
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=5)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints tables and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from fer_tfdata import records

    split = records.open_split(Path(values.data_dir), "train")
    content = measure.provenance(NAME, repeats=values.repeats)
    content |= measure_changes(
        split, repeats=values.repeats, seconds=values.seconds, batch_size=values.batch_size
    )
    content["training"] = measure_training(
        split, repeats=values.repeats, steps=values.steps, batch_size=values.step_batch_size
    )
    content["warp_work_to_step"] = work_to_step(
        content["variants"]["warp"]["images_per_second"]["raw"],
        content["training"]["variants"][_NONE]["step_seconds"]["raw"],
        values.step_batch_size,
    )
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_changes(split: Any, *, repeats: int, seconds: float, batch_size: int) -> dict[str, Any]:
    """Returns images a second of the pipeline with each change, and the fused warp's gain."""
    variants = {
        name: _iterating(split, augment, seconds, batch_size)
        for name, augment in _augments(split).items()
    }
    results = measure.interleaved(variants, repeats)
    return {
        "images": split.examples,
        "batch_size": batch_size,
        "seconds": seconds,
        "variants": {
            name: {
                "images_per_second": measure.summary(raw),
                "ratio_to_none": measure.ratios(raw, results[_NONE]),
            }
            for name, raw in results.items()
        },
        "warp_to_three_passes": measure.ratios(results["warp"], results["three_passes"]),
        "warp_to_keras_layers": measure.ratios(results["warp"], results["keras_layers"]),
    }


def measure_training(split: Any, *, repeats: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Returns the seconds of a training step without and with the warp, and what it costs."""
    from fer_tfdata import precision

    policy = precision.choose_policy("auto", model="seed_cnn")
    without, warped = AugmentationConfig(flip=False), AugmentationConfig(**_WARP)
    variants = {
        _NONE: _fitting(split, policy, without, "input", steps, batch_size),
        "input": _fitting(split, policy, warped, "input", steps, batch_size),
        "device": _fitting(split, policy, warped, "device", steps, batch_size),
    }
    for variant in variants.values():
        variant()  # traces, and lets the library choose its kernels
    results = measure.interleaved(variants, repeats)
    ratios = {
        name: measure.ratios(raw, results[_NONE]) for name, raw in results.items() if name != _NONE
    }
    return {
        "policy": policy,
        "steps": steps,
        "batch_size": batch_size,
        "variants": {name: {"step_seconds": measure.summary(raw)} for name, raw in results.items()},
        "cost": {
            name: measure.summary([ratio - 1 for ratio in values["raw"]])
            for name, values in ratios.items()
        },
        "target": COST_TARGET,
    }


def work_to_step(
    images_per_second: Sequence[float], step_seconds: Sequence[float], batch_size: int
) -> dict[str, Any]:
    """Returns the time that a step's images take alone, as a share of the step."""
    work = [batch_size / speed for speed in images_per_second]
    return measure.ratios(work, step_seconds)


# The variants.


def _augments(split: Any) -> dict[str, Callable[..., Any] | None]:
    alone = {name: {name: value} for name, value in {**_WARP, **_OTHERS}.items()}
    changes = {**alone, "warp": _WARP}
    return {
        _NONE: None,
        "flip": _ours(split, flip=True),
        **{name: _ours(split, flip=False, **change) for name, change in changes.items()},
        "three_passes": _three_passes(split),
        "keras_layers": _keras_layers(),
        "all": _ours(split, **_WARP, **_OTHERS),
    }


def _ours(split: Any, **changes: Any) -> Callable[..., Any]:
    from fer_tfdata import augmentation

    return functools.partial(
        augmentation.augment,
        config=AugmentationConfig(**changes),
        num_classes=len(split.schema.expressions),
    )


def _three_passes(split: Any) -> Callable[..., Any]:
    passes = [_ours(split, flip=False, **{name: value}) for name, value in _WARP.items()]

    def augment(images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
        for one in passes:
            images, labels = one(images, labels, seed)
        return images, labels

    return augment


def _keras_layers() -> Callable[..., Any]:
    import keras

    options = {"fill_mode": "nearest", "seed": _SEED}
    layers = [
        keras.layers.RandomTranslation(_WARP["shift"], _WARP["shift"], **options),
        keras.layers.RandomRotation(_WARP["rotation"] / 360, **options),
        keras.layers.RandomZoom(_WARP["zoom"], **options),
    ]

    def augment(images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
        del seed  # the layers keep a state of their own
        for layer in layers:
            images = layer(images, training=True)
        return images, labels

    return augment


def _iterating(
    split: Any, augment: Callable[..., Any] | None, seconds: float, batch_size: int
) -> Callable[[], float]:
    """Returns what iterates over the pipeline and returns the images a second."""
    from fer_tfdata import pipeline

    def iterate() -> float:
        # Built here, since each dataset holds all the images: one at a time, not one a variant.
        dataset = pipeline.train_dataset(split, batch_size=batch_size, seed=_SEED, augment=augment)
        batches = iter(dataset)
        next(batches)
        return measure.images_per_second(lambda: len(next(batches)[0]), seconds)

    return iterate


def _fitting(
    split: Any,
    policy: str,
    augmentation_config: AugmentationConfig,
    augment_on: str,
    steps: int,
    batch_size: int,
) -> Callable[[], float]:
    """Returns what trains for two epochs and returns the seconds of a step of the second."""
    from fer_tfdata import training_batches, training_model
    from fer_tfdata.train_config import TrainConfig

    config = TrainConfig(
        data_dir="",
        batch_size=batch_size,
        seed=_SEED,
        augmentation=augmentation_config,
        augment_on=augment_on,
    )
    model = training_model.build_training_model(config, policy, split.schema, steps_per_epoch=steps)

    def train() -> float:
        batches = training_batches.train_batches(config, split, model, start_step=0)
        return measure.train_epoch(model, batches, steps).seconds / steps

    return train


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"{content['images']} images, batches of {content['batch_size']}, in the input pipeline")
    measure.print_table(
        ["variant", "images/s [min, max]", "of that without"],
        [
            [
                name,
                measure.spread(variant["images_per_second"]),
                f"{variant['ratio_to_none']['median']:.1%}",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    for other in ("three_passes", "keras_layers"):
        print(f"warp against {other}: {measure.times_as_fast(content[f'warp_to_{other}'])}")
    _print_training(content["training"])
    work = measure.spread(content["warp_work_to_step"], digits=2, factor=100)
    print(f"the warp of a step's images alone: {work} % of a step")
    print()


def _print_training(content: Mapping[str, Any]) -> None:
    print(
        f"\nA step of seed_cnn in {content['policy']}, batches of {content['batch_size']}, "
        f"{content['steps']} steps a repeat"
    )
    measure.print_table(
        ["augmentation", "ms [min, max]", "cost, % [min, max]"],
        [
            [
                name,
                measure.spread(variant["step_seconds"], digits=1, factor=1e3),
                measure.spread(content["cost"][name], digits=1, factor=100)
                if name in content["cost"]
                else "",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    for name, cost in content["cost"].items():
        verdict = "MET" if cost["median"] < content["target"] else "MISSED"
        if cost["min"] < content["target"] <= cost["max"]:
            verdict += " by the median; the repeats lie on both sides"
        print(f"warp in the {name}, target, under {content['target']:.0%} of a step: {verdict}")


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
