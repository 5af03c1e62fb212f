import pytest

from fer_tfdata import exported
from fer_tfdata.errors import InputError
from tests import exports
from tools import export_model


@pytest.fixture
def run_program(run_main, capfd, small_exports, demo_data_dir, tmp_path):
    """Runs the program in this process; returns the export, and what it printed."""

    def run(output, *arguments):
        output = tmp_path / output
        capfd.readouterr()
        run_main(
            export_model,
            f"--model={small_exports.source.name}",
            f"--data_dir={demo_data_dir}",
            f"--output={output}",
            *arguments,
        )
        return output, capfd.readouterr()

    return run


@pytest.mark.slow
def test_it_prints_how_well_the_export_agrees_and_nothing_else(run_program, small_exports) -> None:
    path, printed = run_program("m.tflite", "--format=litert", "--quantize=int8")
    file, agreement, accuracy = printed.out.splitlines()
    assert file == f"{path}: {path.stat().st_size:,} bytes"
    assert agreement.startswith("  against Keras on 35 validation images: probabilities differ by ")
    assert agreement.endswith(f"{small_exports.agreements['int8'].same_answers:.2%}")
    assert accuracy.startswith("  accuracy 0.")
    assert printed.err == ""
    assert exported.load(path).metadata == exported.load(small_exports.paths["int8"]).metadata


def test_what_does_not_go_together_is_refused(run_main, demo_data_dir, tmp_path) -> None:
    model = exports.named(tmp_path / "run", exports.small_model())
    with pytest.raises(InputError, match="quantize: expected none for onnx"):
        run_main(
            export_model,
            *(f"--model={model.name}", f"--data_dir={demo_data_dir}"),
            *(f"--output={tmp_path / 'm.onnx'}", "--format=onnx", "--quantize=int8"),
        )
    assert not (tmp_path / "m.onnx").exists()
