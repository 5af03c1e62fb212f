"""Measures how fast a model classifies faces in Keras and in every format it is exported to.

    python -m benchmarks.export_benchmark --data_dir=data

All take uint8 images of the network's size, from the validation split, and return probabilities:
one image at a time, of which the latency counts, and batches, of which the images a second count.
Every export is written and checked against Keras first.  All use every core, and none a GPU but
those of TensorFlow.
"""

import functools
import importlib.metadata
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from absl import flags

from benchmarks import measure
from fer_tfdata import command_line, exported, named_models
from fer_tfdata.classifier import Classifier, Images
from fer_tfdata.exported import Format, Quantization

NAME: Final = "export_benchmark"

EXPORTS: Final[Mapping[str, tuple[Format, Quantization]]] = {
    "saved_model": ("saved_model", "none"),
    "litert": ("litert", "none"),
    "litert_float16": ("litert", "float16"),
    "litert_int8": ("litert", "int8"),
    "onnx": ("onnx", "none"),
}

_RUNTIMES: Final = ("ai-edge-litert", "onnx", "onnxruntime", "tf2onnx")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    measure.define_feeding_flags(flag_values, seconds=2.0)
    measure.define_flags(flag_values, repeats=5)
    flags.DEFINE_string(
        "model",
        named_models.PRETRAINED,
        "A run directory, a .keras file, or pretrained: the model that ships with the package.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "calls",
        200,
        "How many single images each repeat classifies.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "batch_size", 256, "Images a large batch.", lower_bound=1, flag_values=flag_values
    )


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    content = measure.provenance(NAME, repeats=values.repeats)
    content["versions"] |= {name: importlib.metadata.version(name) for name in _RUNTIMES}
    content |= measure_exports(
        values.model,
        Path(values.data_dir),
        calls=values.calls,
        batch_size=values.batch_size,
        seconds=values.seconds,
        repeats=values.repeats,
    )
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_exports(
    model: str, data_dir: Path, *, calls: int, batch_size: int, seconds: float, repeats: int
) -> dict[str, Any]:
    """Returns what each variant reaches: Keras, and every export of the same model."""
    from fer_tfdata import export, records

    source = named_models.load_keras(model)
    validation = records.load_split(records.open_split(data_dir, "validation"), ["image"])
    images = validation["image"]
    variants: dict[str, dict[str, Any]] = {"keras": {}}
    classifiers: dict[str, Classifier] = {"keras": source.classifier}
    with tempfile.TemporaryDirectory() as directory:
        for name, (form, quantization) in EXPORTS.items():
            output = Path(directory) / f"{name}{exported.SUFFIXES[form]}"
            agreement = export.export(
                source, output, format=form, quantization=quantization, data_dir=data_dir
            )
            classifiers[name] = exported.load(output)
            num_bytes, _ = exported.checksum(exported.contents(output))
            variants[name] = {
                "bytes": num_bytes,
                "largest_difference": agreement.largest_difference,
                "same_answers": agreement.same_answers,
                "accuracy": agreement.accuracy,
            }
            variants["keras"]["accuracy"] = agreement.keras_accuracy
        measured = measure.interleaved(
            {
                name: functools.partial(
                    _measure,
                    classifier,
                    images,
                    calls=calls,
                    batch_size=batch_size,
                    seconds=seconds,
                )
                for name, classifier in classifiers.items()
            },
            repeats,
        )
    for name, repeated in measured.items():
        variants[name] |= {
            key: measure.summary([one[key] for one in repeated]) for key in repeated[0]
        }
    return {
        "model": model,
        "calls": calls,
        "batch_size": batch_size,
        "variants": variants,
        "speed_to_keras": {
            name: measure.ratios(
                *(variants[one]["images_per_second"]["raw"] for one in (name, "keras"))
            )
            for name in EXPORTS
        },
    }


def _measure(
    classifier: Classifier, images: Images, *, calls: int, batch_size: int, seconds: float
) -> dict[str, float]:
    batch = np.resize(images, (batch_size, *images.shape[1:]))

    def classify_batch() -> int:
        return len(classifier.probabilities(batch))

    latencies = _latencies(classifier, images, calls)
    classify_batch()  # sets buffers up
    return {
        "p50_milliseconds": 1e3 * float(np.percentile(latencies, 50)),
        "p99_milliseconds": 1e3 * float(np.percentile(latencies, 99)),
        "images_per_second": measure.images_per_second(classify_batch, seconds),
    }


def _latencies(classifier: Classifier, images: Images, calls: int) -> list[float]:
    """Returns the seconds of each call."""
    classifier.probabilities(images[:1])  # sets buffers up
    latencies = []
    for call in range(calls):
        place = call % len(images)
        start = time.perf_counter()
        classifier.probabilities(images[place : place + 1])
        latencies.append(time.perf_counter() - start)
    return latencies


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"model {content['model']}, {content['calls']} single images a repeat\n")
    measure.print_table(
        ["", "MB", "p50, ms", "p99, ms", f"images/s, {content['batch_size']}", "accuracy"],
        [
            [
                name,
                f"{variant['bytes'] / 1e6:.1f}" if "bytes" in variant else "",
                measure.spread(variant["p50_milliseconds"], digits=2),
                measure.spread(variant["p99_milliseconds"], digits=2),
                measure.spread(variant["images_per_second"]),
                f"{variant['accuracy']:.4f}",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    print()
    for name, ratio in content["speed_to_keras"].items():
        print(f"{name} against keras, batches: {measure.times_as_fast(ratio)}")


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
