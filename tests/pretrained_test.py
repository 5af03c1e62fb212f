import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from fer_tfdata import pretrained, records, training
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.prediction import Predictor
from fer_tfdata.run_directory import load_model
from fer_tfdata.train_config import TrainConfig
from tools import pack_model

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def small_run(demo_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("small") / "run"
    config = TrainConfig(
        data_dir=str(demo_data_dir),
        model="residual_small",
        epochs=1,
        batch_size=35,
        precision="float32",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_draw", lambda *_: None)
        training.train(config, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def packed_once(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed")
    pretrained.pack(small_run, directory)
    return directory


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed_once, tmp_path / "packed"))


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 48, 1), np.uint8)


def test_a_packed_model_answers_as_the_run_it_was_packed_from(packed, small_run) -> None:
    expected = load_model(small_run).predict_on_batch(faces(32))
    received = pretrained.load(packed).predict_on_batch(faces(32))
    np.testing.assert_allclose(received, expected, atol=0.02)
    assert not np.array_equal(received, expected)  # they are halves


def test_it_is_half_as_large_and_tells_how_it_was_trained(packed, small_run) -> None:
    weights = load_model(small_run).count_params()
    assert (packed / "weights.npz").stat().st_size < 2.2 * weights
    description = json.loads((packed / "model.json").read_text())
    assert description["network"] == "residual_small"
    assert description["expressions"] == list(EXPRESSIONS)
    assert description["config"]["epochs"] == 1
    assert "data_dir" not in description["config"]
    assert description["trained_in"]["dtype_policy"] == "float32"
    assert description["trained_in"]["versions"]["keras"] == keras.__version__
    environment = json.loads((small_run / "environment.json").read_text())
    assert description["trained_in"]["manifest_sha256"] == environment["manifest_sha256"]
    assert (description["start_sha256"], description["teachers_sha256"]) == (None, [])
    pretrained.describe(packed, {"none": {"accuracy": 0.5}})
    described = json.loads((packed / "model.json").read_text())
    assert described == {**description, "metrics": {"none": {"accuracy": 0.5}}}


@pytest.mark.parametrize("file", ["weights.npz", "model.json"])
def test_a_missing_file_is_named(packed, file) -> None:
    (packed / file).unlink()
    with pytest.raises(InputError, match=rf"expected a packed model, .*{file}"):
        pretrained.load(packed)


def test_an_altered_weight_is_noticed(packed) -> None:
    content = bytearray((packed / "weights.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (packed / "weights.npz").write_bytes(content)
    with pytest.raises(InputError, match="expected the SHA-256"):
        pretrained.load(packed)


def test_a_packed_model_is_replaced_once_all_has_gone_well(packed, small_run) -> None:
    before = {path.name: path.read_bytes() for path in packed.iterdir()}

    def measured(work: Path) -> None:
        pretrained.pack(small_run, work)
        raise InputError("cannot be measured")

    with pytest.raises(InputError, match="measured"), pretrained.replacing(packed) as work:
        measured(work)
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before
    with pretrained.replacing(packed) as work:
        pretrained.pack(small_run, work)
        pretrained.describe(work, {"none": {"accuracy": 0.5}})
    assert pretrained.read_description(packed)["metrics"] == {"none": {"accuracy": 0.5}}
    assert [path.name for path in packed.parent.iterdir()] == [packed.name]


def test_what_cannot_be_packed_leaves_nothing(run_main, small_run, demo_data_dir, tmp_path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(small_run, run_dir)
    (run_dir / "metrics.json").unlink()
    with pytest.raises(InputError, match="expected a finished run, received none"):
        run_main(
            pack_model,
            *(f"--run_dir={run_dir}", f"--data_dir={demo_data_dir}"),
            f"--output_dir={tmp_path / 'new' / 'packed'}",
        )
    assert list(tmp_path.iterdir()) == [run_dir]


def test_nothing_but_a_packed_model_is_replaced(packed, tmp_path) -> None:
    (packed / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for directory, received in ((packed, "notes.txt"), (tmp_path / "file", "file")):
        with (
            pytest.raises(InputError, match=f"to replace, or nothing, received {received}"),
            pretrained.replacing(directory),
        ):
            pass


def test_what_is_too_large_to_ship_is_not_packed(small_run, tmp_path, monkeypatch) -> None:
    assert pretrained.MOST_BYTES == 6_000_000
    monkeypatch.setattr(pretrained, "MOST_BYTES", 500_000)
    with pytest.raises(InputError, match=r"packs into 500,000 bytes, received one of 5\d\d,"):
        pretrained.pack(small_run, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_weights_that_do_not_fit_into_halves_are_not_packed(small_run, tmp_path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(small_run, run_dir)
    model = load_model(run_dir)
    kernel = model.get_layer("stem").weights[0]
    kernel.assign(np.asarray(kernel) * 1e8)
    model.save(run_dir / "model.keras")
    with pytest.raises(InputError, match="do not fit into float16"):
        pretrained.pack(run_dir, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_the_model_that_ships() -> None:
    shipped = Path(pretrained.__file__).parent / "shipped"
    assert sum(file.stat().st_size for file in shipped.iterdir()) <= pretrained.MOST_BYTES
    predictor = Predictor.from_pretrained()
    assert predictor.expressions == EXPRESSIONS
    probabilities = predictor.predict_faces(faces(3))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    description = json.loads((shipped / "model.json").read_text())
    assert description["metrics"]["flip"]["split"] == "validation"
    assert description["trained_on"] == ["train"]
    start = f"`pretrained` is the model that ships, with `--model={description['network']}`"
    assert start in (DOCS / "runs.md").read_text(encoding="utf-8")


def test_a_run_that_is_not_finished_is_not_packed(small_run, tmp_path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(small_run, run_dir)
    (run_dir / "metrics.json").unlink()
    with pytest.raises(InputError, match="expected a finished run, received none"):
        pretrained.pack(run_dir, tmp_path / "packed")


def test_records_of_two_splits_can_be_joined(demo_data_dir) -> None:
    train, validation = (records.open_split(demo_data_dir, n) for n in ("train", "validation"))
    both = records.joined(train, validation)
    assert both.examples == train.examples + validation.examples
    rows = records.load_split(both)["row"]
    expected = [*records.load_split(train)["row"], *records.load_split(validation)["row"]]
    assert rows.tolist() == expected
