import dataclasses
import json
import statistics
from importlib import import_module
from pathlib import Path

import pytest
from absl import flags

from fer_tfdata.errors import InputError
from fer_tfdata.recipes import RECIPES
from fer_tfdata.train_config import TrainConfig
from tools import train

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
HISTORY_NOT_KEPT = {"residual_medium_long", "seed_cnn_fifteen_epochs"}  # as docs/models.md says


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_file_that_tells_its_command(name) -> None:
    told = import_module(f"fer_tfdata.recipes.{name}").__doc__
    assert "python -m tools.train --data_dir=data --run_dir=runs/" in told
    assert f" --recipe={name}\n" in told
    for fact in ("cores", "minutes", "accuracy", "PublicTest"):
        assert fact in told


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_its_flag_gives_and_other_flags_change_it(name) -> None:
    recipe = RECIPES[name]("data")
    assert recipe.data_dir == "data"
    assert not recipe.train_on_validation
    assert config("--recipe", name) == recipe
    shorter = ["--epochs=3", "--clean_epochs=1"] + ["--shrunk_epochs=1"] * (recipe.shrink > 0)
    changed = config("--recipe", name, *shorter, "--shift=0.25")
    assert (changed.epochs, changed.augmentation.shift) == (3, 0.25)
    assert changed.weight_decay == recipe.weight_decay
    assert changed.augmentation.rotation == recipe.augmentation.rotation


def test_an_empty_flag_takes_away_what_a_recipe_has() -> None:
    alone = config("--recipe=seed_cnn_distilled", "--teacher=", "--teacher_weight=0.5")
    assert alone == RECIPES["seed_cnn_fifteen_epochs"]("data")
    with pytest.raises(InputError, match=r"teacher: expected one for teacher_weight=0\.7"):
        config("--recipe=seed_cnn_distilled", "--teacher=")
    assert config("--start_from=", "--data_service=") == TrainConfig(data_dir="data")
    assert config("--data_dir=").data_dir == ""


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in HISTORY_NOT_KEPT])
def test_a_published_result_is_of_the_recipe_as_it_is(name) -> None:
    measured = json.loads((RESULTS / f"{name}.json").read_text())
    recipe = dataclasses.asdict(RECIPES[name]("data"))
    told = " ".join((import_module(f"fer_tfdata.recipes.{name}").__doc__ or "").split())
    assert "averaged over mirror images" in told
    runs = measured.get("runs", [measured])
    accuracies = [100 * run["metrics_flip"]["accuracy"] for run in runs]
    if len(runs) > 1:
        assert f"{statistics.mean(accuracies):.1f} % averaged over mirror images, the mean" in told
        assert f"standard deviation is {statistics.stdev(accuracies):.1f};" in told
    for run, accuracy in zip(runs, accuracies, strict=True):
        assert {**recipe, **run["config"], "seed": recipe["seed"]} == recipe
        low, high = (100 * share for share in run["metrics_flip"]["bootstrap"]["ci95"]["accuracy"])
        assert f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]" in told


def config(*arguments: str) -> TrainConfig:
    values = flags.FlagValues()
    train.define_flags(values)
    values(["train", "--data_dir=data", "--run_dir=run", *arguments])
    return train.config_from_flags(values)
