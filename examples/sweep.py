"""Searches for better hyperparameters with Optuna; every trial is a run, and HParams compares them.

    pip install -c constraints.txt -e '.[sweep]'
    python -m examples.sweep --data_dir=data --sweep_dir=runs/sweep --trials=20
    tensorboard --logdir runs/sweep   # the HParams tab

Interrupted at any moment, by `kill -9` too, the same command goes on: with the unfinished trial,
from its last checkpoint, and then with the trials that would have come.  A trial whose loss becomes
NaN has failed, and counts as one of them; so does one whose parameters were half drawn.  What is
searched stands in `suggest`; copy this file and change it.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from absl import flags
from optuna.trial import TrialState

from fer_tfdata import command_line
from fer_tfdata.errors import InputError
from fer_tfdata.recipes import RECIPES
from fer_tfdata.train_config import TrainConfig

_BASE: Final = "base"


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    command_line.define_data_dir(flag_values)
    flags.DEFINE_string(
        "sweep_dir",
        None,
        "Where the study and a run directory a trial go.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "recipe",
        "residual_small_half_hour",
        list(RECIPES),
        "What all trials have in common.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer("epochs", 10, "Of each trial.", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_integer(
        "trials",
        20,
        "How many, those that failed and those of earlier calls included.",
        lower_bound=1,
        flag_values=flag_values,
    )


def suggest(trial: optuna.trial.BaseTrial, base: TrainConfig) -> TrainConfig:
    """Returns the configuration of a trial; all have one seed, so that it decides nothing.

    Rate and weight decay are drawn around the recipe's, which are its optimizer's.
    """
    augmentation = dataclasses.replace(
        base.augmentation,
        mixup=trial.suggest_float("mixup", 0.05, 1.0, log=True),
        erasing=trial.suggest_float("erasing", 0.0, 0.5),
    )
    return dataclasses.replace(
        base,
        learning_rate=base.learning_rate * trial.suggest_float("rate_factor", 0.25, 4, log=True),
        weight_decay=base.weight_decay * trial.suggest_float("decay_factor", 0.25, 4, log=True),
        label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.2),
        augmentation=augmentation,
    )


def shortened(recipe: TrainConfig, epochs: int) -> TrainConfig:
    """Returns a recipe in so many epochs.

    The shrunk epochs keep their share; warm-up and clean epochs are no more than the recipe's, and
    no more than a tenth and a fifth.
    """
    shrunk_epochs = recipe.shrunk_epochs * epochs // recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        clean_epochs=min(recipe.clean_epochs, epochs // 5),
        warmup_epochs=min(recipe.warmup_epochs, epochs / 10),
        shrunk_epochs=shrunk_epochs,
        shrink=recipe.shrink if shrunk_epochs else 0.0,
    )


def search(
    base: TrainConfig,
    sweep_dir: Path,
    trials: int,
    stop_asked: Callable[[], bool] = lambda: False,
) -> optuna.Study:
    """Runs trials until there are so many, those that failed and those of earlier calls included.

    Args:
      base: what all trials have in common.
      sweep_dir: holds `study.db` and a run directory a trial.
      trials: how many.
      stop_asked: whether to stop: after a step of a trial, and before the next trial.

    Raises:
      InputError: as `training.train` does, but for a loss that is not finite: that trial failed; or
        the search was begun with another base.
      StoppedError: as `training.train` does.
    """
    from fer_tfdata import callbacks, training

    common = _common(base)  # checked before anything is made
    sweep_dir.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=sweep_dir.name,
        storage=f"sqlite:///{sweep_dir / 'study.db'}",
        load_if_exists=True,
        direction="maximize",
    )
    _check_base(study, common)
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        if _redrawn(trial, base) is None:
            raise _of_other_parameters(sweep_dir, trial)

    def finish(number: int, config: TrainConfig) -> None:
        try:
            metrics = training.train(
                config, _run_directory(sweep_dir, number), resume=True, stop_asked=stop_asked
            )
        except callbacks.NonFiniteLossError as error:
            print(
                f"trial {number} failed: no finite loss from step {error.step} on", file=sys.stderr
            )
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, metrics["accuracy"])

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if stop_asked():
            return study
        if (config := _redrawn(trial, base)) is not None:
            finish(trial.number, config)
        elif _run_directory(sweep_dir, trial.number).exists():
            raise _of_other_parameters(sweep_dir, trial)
        else:
            print(f"trial {trial.number} failed: it was not drawn to the end", file=sys.stderr)
            study.tell(trial.number, state=TrialState.FAIL)
    while (number := len(study.trials)) < trials and not stop_asked():
        study.sampler = _sampler(base.seed, number)
        drawn = study.ask()
        finish(drawn.number, suggest(drawn, base))
    return study


def _redrawn(trial: optuna.trial.FrozenTrial, base: TrainConfig) -> TrainConfig | None:
    """Returns a trial's configuration; None where it lacks a parameter that `suggest` draws."""
    try:
        return suggest(optuna.trial.FixedTrial(trial.params), base)
    except InputError:  # is a ValueError too, and `suggest`'s own
        raise
    except ValueError:
        return None


def _of_other_parameters(sweep_dir: Path, trial: optuna.trial.FrozenTrial) -> InputError:
    return InputError(
        f"{_run_directory(sweep_dir, trial.number)}: expected a trial of the parameters that "
        f"`suggest` draws, received one of {', '.join(trial.params) or 'none'}; choose another "
        "--sweep_dir for another search"
    )


def _run_directory(sweep_dir: Path, number: int) -> Path:
    return sweep_dir / f"trial-{number:03d}"


def _common(base: TrainConfig) -> dict[str, Any]:
    """Returns what all trials of a search have in common, by name."""
    import keras

    from fer_tfdata import bookkeeping, precision

    return {
        **bookkeeping.hyperparameters(base),
        "the data's checksum": _checksum(base.data_dir),
        "backend": keras.backend.backend(),
        "dtype policy": precision.choose_policy(base.precision, model=base.model),
        **_other_models(base),
    }


def _check_base(study: optuna.Study, common: dict[str, Any]) -> None:
    """Notes what all trials of a study have in common, or checks that it is what was noted."""
    begun = study.user_attrs.get(_BASE, {})
    changed = [
        f"{name} {begun[name]!r} (now {value!r})"
        for name, value in common.items()
        if name in begun and begun[name] != value  # what is not in it had no name yet
    ]
    if changed:
        raise InputError(
            f"{study.study_name}: the search was begun with {', '.join(changed)}, so that other "
            "trials could not be compared; choose another --sweep_dir"
        )
    study.set_user_attr(_BASE, common)


def _checksum(data_dir: str) -> str:
    from fer_tfdata import records

    return records.open_split(Path(data_dir), "train").manifest_sha256


def _other_models(base: TrainConfig) -> dict[str, str]:
    """Returns the checksums of what all trials begin with or learn from."""
    from fer_tfdata import named_models

    names = [base.start_from or "", *(base.teacher or "").split(",")]
    return {f"{name}'s checksum": named_models.checksums(name)[0] for name in filter(None, names)}


def _sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Returns what draws one trial.

    One sampler for all of them would begin again when a search is continued, with the parameters of
    trial 0.  From a seed of its own, a trial is what it is in a search that was not interrupted.
    """
    (mixed,) = np.random.SeedSequence([seed, number]).generate_state(1)
    return optuna.samplers.TPESampler(seed=int(mixed))


def main(argv: Sequence[str]) -> None:
    """Searches, and prints the best trial."""
    del argv
    values = flags.FLAGS
    stop_asked = command_line.sigterm_noted()
    command_line.import_tensorflow_quietly()
    from fer_tfdata import callbacks

    base = shortened(RECIPES[values.recipe](values.data_dir), values.epochs)
    sweep_dir = Path(values.sweep_dir)
    try:
        study = search(base, sweep_dir, values.trials, stop_asked)
    except callbacks.StoppedError as stopped:
        print(f"{sweep_dir}: {stopped} of a trial; continue with the same command")
        return
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
    if len(ended) < values.trials:
        print(f"{sweep_dir}: stopped after {len(ended)} trials; continue with the same command")
        return
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise InputError(
            f"{sweep_dir}: expected a trial that ends with an accuracy, but all "
            f"{len(study.trials)} failed; go on with more --trials, or narrow what `suggest` draws "
            "and begin in a new --sweep_dir"
        )
    best = study.best_trial
    print(f"trial {best.number}: validation accuracy {best.value:.4f}")
    for name, value in best.params.items():
        print(f"  {name} {value:.4g}")
    print(f"  {_run_directory(sweep_dir, best.number)}: its run, whose config.json has the flags")


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
