import dataclasses
import errno
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from PIL import Image

import fer_tfdata
from fer_tfdata import (
    evaluation,
    export,
    exported,
    named_models,
    precision,
    pretrained,
    records,
    servable,
)
from fer_tfdata.errors import InputError
from fer_tfdata.evaluation import Predictions
from fer_tfdata.export import Agreement
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.named_models import NamedModel
from tests import exports

ROOT = Path(__file__).resolve().parent.parent
LARGEST = {"float16": 2e-3, "int8": 0.05}


@pytest.fixture(scope="module")
def source(small_exports) -> NamedModel:
    return small_exports.source


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> NamedModel:
    return exports.named(tmp_path_factory.mktemp("other"), exports.small_model(seed=2))


@pytest.fixture(scope="module")
def written(small_exports) -> dict[str, Path]:
    return small_exports.paths


@pytest.mark.parametrize("name", exports.VARIANTS)
def test_an_export_answers_as_keras_does(small_exports, source, demo_data_dir, name) -> None:
    path, agreement = small_exports.paths[name], small_exports.agreements[name]
    loaded = named_models.load(str(path))
    images = records.load_split(records.open_split(demo_data_dir, "validation"))["image"]
    expected = source.classifier.probabilities(images)
    received = loaded.probabilities(images)
    largest = np.abs(received - expected).max()
    assert largest <= LARGEST.get(name, 1e-6)
    assert agreement.largest_difference == pytest.approx(largest)
    assert agreement.examples == 35
    assert (loaded.image_shape, loaded.expressions) == ((48, 48, 1), EXPRESSIONS)


@pytest.mark.parametrize("name", exports.VARIANTS)
def test_images_of_any_size_and_number_are_resized_inside(written, source, name) -> None:
    path = written[name]
    runtimes = {"saved_model": tf_runtime, "onnx": onnx_runtime}
    run = runtimes.get(name, litert_runtime)(path)
    for n, *size in ((3, 48, 48), (1, 100, 100), (2, 20, 31), (5, 131, 90)):
        images = np.random.default_rng(n).integers(0, 256, (n, *size, 1), dtype=np.uint8)
        fitted = servable.fit(images, 48).numpy().astype(np.uint8)
        expected = source.classifier.probabilities(fitted)
        received = run(images)
        assert received.dtype == np.float32
        np.testing.assert_allclose(received, expected, atol=2 * LARGEST.get(name, 1e-6))


def tf_runtime(path):
    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.signatures["serving_default"](images=images)[
        "probabilities"
    ].numpy()


def litert_runtime(path):
    signature = Interpreter(str(path)).get_signature_runner()
    return lambda images: signature(images=images)["probabilities"]


def onnx_runtime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def read_metadata(name: str, path: Path) -> str:
    if name == "saved_model":
        return (path / "assets.extra" / "fer_tfdata.json").read_text()
    if name == "onnx":
        (entry,) = onnx.load(path).metadata_props
        assert entry.key == "fer_tfdata.json"
        return entry.value
    return zipfile.ZipFile(path).read("fer_tfdata.json").decode()


@pytest.mark.parametrize("name", exports.VARIANTS)
def test_an_export_says_what_it_is_in_its_format_s_own_place(written, source, name) -> None:
    path = written[name]
    content = json.loads(read_metadata(name, path))
    model_file = Path(source.name)
    form, quantization = exports.VARIANTS[name]
    expected = {
        "version": fer_tfdata.__version__,
        "format": form,
        "quantization": quantization,
        "image_shape": [48, 48, 1],
        "expressions": list(EXPRESSIONS),
        "model": source.name,
        "model_sha256": records.sha256_of(model_file),
        "manifest_sha256": None,  # the file stands in no run
    }
    assert content.items() >= expected.items()
    assert exported.to_json(exported.load(path).metadata) == json.dumps(content, indent=2)


def test_an_onnx_file_is_a_valid_one_with_named_dimensions(written) -> None:
    model = onnx.load(written["onnx"])
    onnx.checker.check_model(model, full_check=True)
    (images,), (probabilities,) = model.graph.input, model.graph.output
    dimensions = [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim]
    assert (images.name, dimensions) == ("images", ["n", "h", "w", 1])
    dimensions = [d.dim_param or d.dim_value for d in probabilities.type.tensor_type.shape.dim]
    assert (probabilities.name, dimensions) == ("probabilities", ["n", 7])


def test_float16_halves_the_weights_and_int8_computes_in_integers(written) -> None:
    dtypes = {}
    for name in ("litert", "float16", "int8"):
        interpreter = Interpreter(
            str(written[name]),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        details = interpreter.get_tensor_details()
        kernels = [detail for detail in details if tuple(detail["shape"]) == (16, 3, 3, 1)]
        dtypes[name] = {kernel["dtype"] for kernel in kernels}
        resizing = [d["dtype"] for d in details if d["name"].startswith(servable.RESIZING)]
        assert np.float32 in resizing
        assert np.int8 not in resizing
        (output,) = interpreter.get_output_details()
        assert output["dtype"] == np.float32
    # float16 is for storing: the kernel is made float32 again, once.
    assert dtypes == {
        "litert": {np.float32},
        "float16": {np.float16, np.float32},
        "int8": {np.int8},
    }
    images = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 1), dtype=np.uint8)
    steps = 256 * litert_runtime(written["int8"])(images)
    assert not np.allclose(steps, np.round(steps), atol=1e-3)  # the softmax is in float


@pytest.mark.parametrize("name", ["saved_model", "onnx"])
def test_an_export_that_disagrees_is_refused(source, other, demo_data_dir, tmp_path, name) -> None:
    tampered = exports.pretending(source, other)
    with pytest.raises(InputError, match=r"within 0\.001 of Keras's, received a difference of 0\."):
        exports.write(tampered, tmp_path / "new" / "folder", demo_data_dir, name)
    assert not list(tmp_path.iterdir())


def test_an_int8_export_that_is_less_accurate_is_refused(
    source, other, demo_data_dir, tmp_path, written
) -> None:
    split = records.open_split(demo_data_dir, "validation")
    accuracies = {
        model.name: evaluation.evaluate(model.classifier, split, model_name="m")["accuracy"]
        for model in (source, other)
    }
    assert accuracies[source.name] != accuracies[other.name]
    worse, better = sorted((source, other), key=lambda model: accuracies[model.name])
    path = exports.output(tmp_path, "int8")
    shutil.copy(written["int8"], path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"at most 0\.5 points less accuracy than Keras"):
        exports.write(exports.pretending(worse, better), tmp_path, demo_data_dir, "int8")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_weights_that_do_not_fit_into_float16_are_refused(demo_data_dir, tmp_path) -> None:
    model = exports.small_model()
    logits = model.get_layer("logits")
    kernel, bias = logits.get_weights()
    logits.set_weights([kernel * 1e6, bias])
    too_large = exports.named(tmp_path / "model", model)
    with pytest.raises(InputError, match=r"float16\.tflite: expected probabilities within 0\.01 "):
        exports.write(too_large, tmp_path / "exports", demo_data_dir, "float16")
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize("name", ["saved_model", "onnx"])
def test_an_interrupted_export_leaves_nothing(source, demo_data_dir, tmp_path, name) -> None:
    classified = 0

    def interrupt_the_second_round(count: int) -> None:
        nonlocal classified
        classified += count
        if classified > 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exports.write(
            source,
            tmp_path / "new",
            demo_data_dir,
            name,
            on_batch=interrupt_the_second_round,
        )
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_one_and_nothing_else(source, demo_data_dir, tmp_path) -> None:
    run_directory = tmp_path / "saved_model"
    run_directory.mkdir()
    (run_directory / "model.keras").touch()
    with pytest.raises(InputError, match="expected a new directory, or an exported SavedModel"):
        exports.write(source, tmp_path, demo_data_dir, "saved_model")
    assert (run_directory / "model.keras").exists()
    shutil.rmtree(run_directory)
    for _ in range(2):
        path, _ = exports.write(source, tmp_path, demo_data_dir, "saved_model")
        assert exported.load(path).expressions == EXPRESSIONS


@pytest.mark.parametrize(
    ("form", "quantization", "output", "message"),
    [
        ("onnx", "float16", "m.onnx", "quantize: expected none for onnx, received float16"),
        ("saved_model", "int8", "m", "quantize: expected none for saved_model"),
        ("litert", "none", "m.onnx", r"m\.onnx: expected a file that ends in \.tflite"),
        ("onnx", "none", "model", r"expected a file that ends in \.onnx"),
        ("saved_model", "none", "m.tflite", "expected a new directory"),
        ("litert", "none", "folder.tflite", "expected a file"),
    ],
)
def test_what_does_not_go_together_is_refused(
    source, demo_data_dir, tmp_path, form, quantization, output, message
) -> None:
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(InputError, match=message):
        export.export(
            source,
            tmp_path / output,
            format=form,
            quantization=quantization,
            data_dir=demo_data_dir,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["folder.tflite"]


def test_a_model_of_other_images_is_refused_before_it_is_converted(demo_data_dir, tmp_path) -> None:
    inputs = keras.Input((64, 64, 1), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Flatten()(inputs)))
    named = exports.named(tmp_path / "model", model)
    with pytest.raises(InputError, match=r"expected a model of images \(48, 48, 1\)"):
        exports.write(named, tmp_path / "exports", demo_data_dir, "onnx")
    assert not (tmp_path / "exports").exists()


def test_a_model_of_mixed_precision_is_refused(demo_data_dir, tmp_path) -> None:
    with precision.policy_scope("mixed_bfloat16"):
        model = exports.small_model()
    named = exports.named(tmp_path / "model", model)
    with pytest.raises(InputError, match="computes in float32, received one of bfloat16"):
        exports.write(named, tmp_path / "exports", demo_data_dir, "onnx")
    assert not (tmp_path / "exports").exists()


@keras.saving.register_keras_serializable()
class Unknown(keras.layers.Layer):
    """What TensorFlow computes, and neither LiteRT nor ONNX."""

    def call(self, inputs):
        return inputs + tf.math.digamma(inputs)


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_what_a_format_cannot_hold_is_said_in_one_line(
    demo_data_dir, tmp_path, source, name
) -> None:
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    unknown = exports.named(
        tmp_path / "model", keras.Model(inputs, Unknown()(source.model(inputs)))
    )
    with pytest.raises(
        InputError, match=f"expected a model that can be converted to {name}"
    ) as error:
        exports.write(unknown, tmp_path / "exports", demo_data_dir, name)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        tf.errors.ResourceExhaustedError(None, None, f"shard; {os.strerror(errno.ENOSPC)}"),
    ],
)
def test_a_full_disk_is_no_fault_of_the_model(
    source, demo_data_dir, tmp_path, monkeypatch, error
) -> None:
    def full(*arguments) -> None:
        raise error

    monkeypatch.setattr(export, "_save", full)
    with pytest.raises(InputError, match=r"not be written \(No space left on device\); make room"):
        exports.write(source, tmp_path / "new", demo_data_dir, "saved_model")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("module", ["tf2onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(
    source, demo_data_dir, tmp_path, monkeypatch, module
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{module} .* pip install 'fer-tfdata\[export\]'"):
        exports.write(source, tmp_path / "new", demo_data_dir, "onnx")
    assert not list(tmp_path.iterdir())


def test_a_seed_chooses_the_images_of_the_calibration(demo_data_dir) -> None:
    train = records.load_split(records.open_split(demo_data_dir, "train"))["image"]
    chosen = export.calibration_images(demo_data_dir, seed=3, count=20)
    again = export.calibration_images(demo_data_dir, seed=3, count=20)
    others = export.calibration_images(demo_data_dir, seed=4, count=20)
    np.testing.assert_array_equal(chosen, again)
    assert (chosen != others).any()
    places = [np.flatnonzero((train == one).all(axis=(1, 2, 3)))[0] for one in chosen]
    assert len(set(places)) == 20
    assert len(export.calibration_images(demo_data_dir, seed=3)) == len(train)


def agreement(**changes: float) -> Agreement:
    perfect = Agreement(
        examples=1000, largest_difference=0.0, same_answers=1.0, accuracy=0.66, keras_accuracy=0.66
    )
    return dataclasses.replace(perfect, **changes)


@pytest.mark.parametrize(
    ("quantization", "changes"),
    [
        ("none", {}),
        ("none", {"largest_difference": 1e-3}),
        ("float16", {"largest_difference": 1e-2}),
        ("int8", {"largest_difference": 0.3, "same_answers": 0.9}),
        ("int8", {"accuracy": 0.6551}),
        ("int8", {"accuracy": 0.9}),
    ],
)
def test_what_agrees_passes(quantization, changes) -> None:
    export.check(agreement(**changes), quantization, Path("model"))


@pytest.mark.parametrize(
    ("quantization", "changes"),
    [
        ("none", {"largest_difference": 1.1e-3}),
        ("none", {"largest_difference": float("nan")}),
        ("float16", {"largest_difference": 1.1e-2}),
        ("int8", {"accuracy": 0.6549}),
        ("float16", {"accuracy": 0.6549}),
    ],
)
def test_what_disagrees_does_not(quantization, changes) -> None:
    with pytest.raises(InputError, match=r"^model: expected .* Keras"):
        export.check(agreement(**changes), quantization, Path("model"))


def test_agreement_by_hand() -> None:
    labels, rows = np.array([0, 0, 1, 1]), np.arange(4)
    images = rows.astype(np.uint64)
    expected = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]])
    received = np.array([[0.8, 0.2], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]])
    compared = export.compare(
        Predictions(expected, labels, rows, images), Predictions(received, labels, rows, images)
    )
    assert compared == Agreement(
        examples=4,
        largest_difference=pytest.approx(0.2),
        same_answers=0.75,
        accuracy=0.75,
        keras_accuracy=1.0,
    )


def snippets() -> dict[str, str]:
    """The programs of the document, by their format."""
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    sections = [section.partition("\n") for section in text.split("\n## ")]
    return {
        heading: code
        for heading, _, section in sections
        for code in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    }


@pytest.mark.parametrize(
    ("heading", "name"), [("SavedModel", "saved_model"), ("LiteRT", "int8"), ("ONNX", "onnx")]
)
def test_the_document_s_programs_run(
    written, source, tmp_path, monkeypatch, capsys, heading, name
) -> None:
    path = written[name]
    if path.is_dir():
        shutil.copytree(path, tmp_path / "model")
    else:
        shutil.copy(path, tmp_path / f"model{path.suffix}")
    face = np.random.default_rng(0).integers(0, 256, (90, 80), dtype=np.uint8)
    Image.fromarray(face).save(tmp_path / "face.png")
    monkeypatch.chdir(tmp_path)
    code = snippets()[heading]
    assert "import fer_tfdata" not in code
    assert "from fer_tfdata" not in code
    exec(compile(code, heading, "exec"), {})
    fitted = servable.fit(face[np.newaxis, ..., np.newaxis], 48).numpy().astype(np.uint8)
    (expected,) = source.classifier.probabilities(fitted)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [expression for expression, _ in lines] == list(EXPRESSIONS)
    received = [float(probability) for _, probability in lines]
    np.testing.assert_allclose(received, expected, atol=2 * LARGEST.get(name, 1e-3))


@pytest.mark.slow  # half a minute a format
@pytest.mark.parametrize("name", exports.VARIANTS)
def test_the_model_that_ships_can_be_exported(demo_data_dir, tmp_path, name) -> None:
    shipped = named_models.load_keras(named_models.PRETRAINED)
    path, agreement = exports.write(shipped, tmp_path, demo_data_dir, name)
    assert agreement.largest_difference <= {"float16": 5e-3, "int8": 0.3}.get(name, 1e-5)
    metadata = exported.load(path).metadata
    assert metadata.model == "pretrained"
    assert metadata.model_sha256 == pretrained.read_description()["sha256"]
    assert len(metadata.manifest_sha256) == 64
