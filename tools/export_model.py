"""Exports a model to a SavedModel, LiteRT or ONNX, and checks the file against Keras.

    python -m tools.export_model --format=onnx --output=model.onnx --data_dir=data
    python -m tools.export_model --model=runs/first --format=litert --quantize=int8 \
        --output=model.tflite --data_dir=data

An export takes uint8 images of any size and returns probabilities; it needs neither Keras nor this
package.  It is loaded again by its own runtime and held against Keras on the whole validation
split: probabilities within 0.001 (float16: 0.01), and at most half a point less accuracy.  Where it
disagrees, nothing is written.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_tfdata import command_line, exported, named_models


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "model",
        named_models.PRETRAINED,
        "A run directory, a .keras file, or pretrained: the model that ships with the package.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "format",
        None,
        exported.FORMATS,
        "saved_model: a directory for TensorFlow and its servers; litert: a .tflite file for "
        "phones and small devices; onnx: an .onnx file for ONNX Runtime and others.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "quantize",
        "none",
        exported.QUANTIZATIONS,
        "Makes a LiteRT file smaller: float16 halves its weights; int8 quarters them and computes "
        "in integers, whose ranges come from images of the train split.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "Where the export goes; one that is there already is replaced.",
        required=True,
        flag_values=flag_values,
    )
    command_line.define_data_dir(flag_values)
    flags.DEFINE_integer(
        "seed",
        0,
        "Chooses the images that int8 is calibrated with.",
        lower_bound=0,
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Exports, and prints how well the export agrees with Keras."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from tqdm import tqdm

    from fer_tfdata import export

    output = Path(values.output)
    source = named_models.load_keras(values.model)
    with tqdm(unit=" images", desc="checking", disable=not sys.stderr.isatty()) as bar:
        agreement = export.export(
            source,
            output,
            format=values.format,
            quantization=values.quantize,
            data_dir=Path(values.data_dir),
            seed=values.seed,
            on_batch=bar.update,
        )
    num_bytes, _ = exported.checksum(exported.contents(output))
    print(f"{output}: {num_bytes:,} bytes")
    print(
        f"  against Keras on {agreement.examples:,} validation images: probabilities differ by at "
        f"most {agreement.largest_difference:.2g}, the answer is the same for "
        f"{agreement.same_answers:.2%}"
    )
    print(f"  accuracy {agreement.accuracy:.4f}, Keras {agreement.keras_accuracy:.4f}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
