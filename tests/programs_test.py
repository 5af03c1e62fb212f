"""What holds for every program in `tools/`."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.conversion_config import ConversionConfig
from fer_tfdata.train_config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__")


def flags_of(program: str) -> flags.FlagValues:
    values = flags.FlagValues()
    importlib.import_module(f"tools.{program}").define_flags(values)
    return values


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_complete_and_imports_no_tensorflow(program) -> None:
    command = [sys.executable, "-X", "importtime", "-m", f"tools.{program}", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in flags_of(program):
        assert f"--{name}" in result.stdout or f"--[no]{name}" in result.stdout
    assert "tensorflow" not in result.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_flag_is_refused_in_one_line(program) -> None:
    command = [sys.executable, "-m", f"tools.{program}", "--no_such_flag=1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_all_programs_fit_into_one_process() -> None:
    for program in PROGRAMS:
        assert len(list(flags_of(program))) > 0


def test_every_field_of_the_training_has_its_flag_with_its_default() -> None:
    train = importlib.import_module("tools.train")
    values = flags.FlagValues()
    train.define_flags(values)
    values(["train", "--data_dir=data", "--run_dir=run"])
    assert train.config_from_flags(values) == TrainConfig(data_dir="data")
    fields = {field.name for field in dataclasses.fields(TrainConfig)} - {"augmentation"}
    fields |= {field.name for field in dataclasses.fields(AugmentationConfig)}
    assert fields <= set(values)


# One of the two: which makes images smaller.
@pytest.mark.parametrize(
    ("smaller", "crop"), [({"shrink": 0.25, "shrunk_epochs": 2}, 0.0), ({}, 0.25)]
)
def test_every_field_of_the_training_is_set_by_its_flag(smaller, crop) -> None:
    train = importlib.import_module("tools.train")
    expected = TrainConfig(
        data_dir="elsewhere",
        labels="ferplus_majority",
        model="vgg",
        epochs=3,
        batch_size=7,
        optimizer="sgd",
        learning_rate=0.25,
        schedule="cosine",
        warmup_epochs=0.5,
        weight_decay=0.01,
        label_smoothing=0.1,
        ema=0.99,
        clean_epochs=1,
        start_from="runs/start",
        teacher="runs/teacher",
        teacher_weight=0.25,
        checkpoint_every=50,
        train_on_validation=True,
        precision="float32",
        seed=11,
        augmentation=AugmentationConfig(
            flip=False,
            shift=0.125,
            rotation=20.0,
            zoom=0.5,
            crop=crop,
            brightness=0.375,
            contrast=0.625,
            erasing=0.75,
            mixup=0.2,
            cutmix=1.5,
        ),
        augment_on="device",
        data_service="grpc://host:5050",
        **smaller,
    )
    given = dataclasses.asdict(expected)
    given |= given.pop("augmentation")
    plain = dataclasses.asdict(TrainConfig(data_dir="data"))
    plain |= plain.pop("augmentation")
    unchanged = {name for name in given if given[name] == plain[name]}
    unset = {"crop"} if smaller else {"shrink", "shrunk_epochs"}
    assert unchanged == {"logit_adjustment"} | unset  # the first does not go with FER+'s labels
    values = flags.FlagValues()
    train.define_flags(values)
    values(["train", "--run_dir=run", *(f"--{name}={value}" for name, value in given.items())])
    assert train.config_from_flags(values) == expected


def test_a_flag_out_of_its_range_is_refused_by_its_name() -> None:
    command = [sys.executable, "-m", "tools.train", "--data_dir=data", "--run_dir=run"]
    for argument, message in (
        ("--rotation=200", "rotation: expected 0 to 180, received 200.0"),
        ("--augment_on=gpu", "augment_on"),
    ):
        done = subprocess.run(
            [*command, argument], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_every_field_of_the_conversion_has_its_flag_with_its_default() -> None:
    make_tfrecords = importlib.import_module("tools.make_tfrecords")
    values = flags.FlagValues()
    make_tfrecords.define_flags(values)
    values(["make_tfrecords", "--csv=a.csv", "--output_dir=data"])
    config = make_tfrecords.config_from_flags(values)
    assert config == ConversionConfig(csv=("a.csv",), output_dir="data")
    assert {field.name for field in dataclasses.fields(ConversionConfig)} <= set(values)


@pytest.mark.parametrize(
    ("program", "names"),
    [
        (
            "make_tfrecords",
            "csv image_dir ferplus_csv output_dir num_shards on_bad_row overwrite drop engine",
        ),
        ("inspect_dataset", "data_dir output_dir"),
        (
            "train",
            "data_dir run_dir model epochs batch_size learning_rate precision seed resume labels "
            "data_service",
        ),
        ("evaluate", "model data_dir split labels tta output_dir verify"),
        ("predict", "model input output_dir format"),
        ("export_model", "model format output data_dir quantize"),
    ],
)
def test_the_flags_of_the_contract(program, names) -> None:
    assert set(names.split()) <= set(flags_of(program))


def test_every_program_has_its_console_command() -> None:
    commands = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for program in PROGRAMS:
        name = program.replace("_", "-")
        assert f"fer-{name} = fer_tfdata.tools.{program}:run" in commands
