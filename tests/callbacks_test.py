import time

import keras
import numpy as np
import pytest

from fer_tfdata import callbacks
from fer_tfdata.errors import InputError


def test_the_step_at_which_the_loss_became_nan_is_named() -> None:
    watch = callbacks.StopOnNonFiniteLoss(steps_per_epoch=100)
    watch.on_epoch_begin(2)

    def run_epoch() -> None:
        for batch in range(100):
            watch.on_train_batch_end(batch, {"loss": float("nan") if batch >= 23 else 1.0})

    with pytest.raises(InputError, match=r"the loss is nan from step 224 on \(epoch 3\)"):
        run_epoch()


def test_the_last_step_of_an_epoch_is_looked_at() -> None:
    watch = callbacks.StopOnNonFiniteLoss(steps_per_epoch=5)
    watch.on_epoch_begin(0)
    watch.on_train_batch_end(3, {"loss": 1.0})
    with pytest.raises(InputError, match="the loss is inf from step 5"):
        watch.on_train_batch_end(4, {"loss": float("inf")})


def regression() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, np.ones((8, 2), "float32"), np.zeros((8, 1), "float32")


def test_the_plateau_remembers_what_came_before_it_was_interrupted() -> None:
    # One epoch without improvement stands in the past, so the next one lowers the rate.
    model, x, y = regression()
    past = [{"val_loss": -1.0}, {"val_loss": -0.5}]
    plateau = callbacks.ReduceLROnPlateau(
        past, initial_rate=0.1, monitor="val_loss", factor=0.5, patience=2
    )
    model.fit(
        x, y, validation_data=(x, y), epochs=3, initial_epoch=2, callbacks=[plateau], verbose=0
    )
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


def test_replaying_the_past_leaves_the_rate_that_the_checkpoint_restored() -> None:
    model, _, _ = regression()
    past = [{"val_loss": 1.0}] * 10
    plateau = callbacks.ReduceLROnPlateau(
        past, initial_rate=0.1, monitor="val_loss", factor=0.5, patience=1
    )
    plateau.set_model(model)
    plateau.on_train_begin()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_a_plateau_that_was_interrupted_lowers_the_rate_when_it_would_have() -> None:
    losses = [1.5, *[1.6] * 12]

    def rates(interrupted_after: int | None) -> list[float]:
        model, _, _ = regression()
        past = []
        seen = []
        plateau = None
        for epoch, loss in enumerate(losses):
            if plateau is None or epoch == interrupted_after:
                plateau = callbacks.ReduceLROnPlateau(
                    past, initial_rate=0.1, monitor="val_loss", factor=0.2, patience=2, min_lr=1e-4
                )
                plateau.set_model(model)
                plateau.on_train_begin()
            plateau.on_epoch_end(epoch, {"val_loss": loss})
            past = [*past, {"val_loss": loss}]
            seen.append(float(model.optimizer.learning_rate))
        return seen

    whole = rates(None)
    assert len(set(whole)) == 6  # down to the least
    for epoch in range(1, len(losses)):
        assert rates(epoch) == whole


@pytest.mark.parametrize("done_before", [0, 7])
def test_the_step_that_is_traced_does_not_count_for_the_speed(monkeypatch, done_before) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    model, _, _ = regression()
    model.steps_done, model.seconds_waited = done_before, 0.0
    report = callbacks.EpochReport(epochs=2, steps_per_epoch=10, batch_size=5)
    report.set_model(model)
    speeds = []
    for epoch in range(2):
        report.on_epoch_begin(epoch)
        for step in range(10):
            if step >= model.steps_done:
                now += 100 if (epoch, step) == (0, done_before) else 0.5
            report.on_train_batch_end(step)
        report.on_test_begin()
        logs = {"loss": 1.0, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.25}
        report.on_epoch_end(epoch, logs)
        speeds.append(logs["images_per_second"])
        model.steps_done = 0
    assert speeds == [10, 10]


def test_an_epoch_s_line_says_how_fast_it_was(capsys) -> None:
    model, _, _ = regression()
    model.steps_done, model.seconds_waited = 0, 0.0
    report = callbacks.EpochReport(epochs=3, steps_per_epoch=10, batch_size=10)
    report.set_model(model)
    report.on_epoch_begin(1)
    report.on_test_begin()
    logs = {"loss": 1.0, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.25}
    report.on_epoch_end(1, logs)
    assert logs["images_per_second"] > 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("epoch 2/3: loss 1.0000, accuracy 0.5000, val_loss 2.0000")
