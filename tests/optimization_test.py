import math

import keras
import numpy as np
import pytest

from fer_tfdata import optimization
from fer_tfdata.errors import InputError
from fer_tfdata.models import BUILDERS
from fer_tfdata.train_config import TrainConfig


def config(**choices) -> TrainConfig:
    return TrainConfig(data_dir="data", **choices)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_shrinks_kernels_and_nothing_else(optimizer) -> None:
    model = BUILDERS["mini_xception"](image_size=16)
    rule = optimization.build_optimizer(
        config(optimizer=optimizer, weight_decay=0.5, learning_rate=0.1), steps_per_epoch=10
    )
    variables = model.trainable_variables
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    rule.build(variables)
    rule.apply([np.zeros(variable.shape, np.float32) for variable in variables], variables)
    for variable, value in zip(variables, before, strict=True):
        share = 0.95 if variable.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(variable, share * value, rtol=1e-6)


def test_the_cosine_rises_peaks_and_falls_to_zero() -> None:
    rate = optimization.learning_rate(
        config(schedule="cosine", warmup_epochs=2, epochs=10, learning_rate=0.4), steps_per_epoch=5
    )
    assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx([0, 0.2, 0.4])
    for step in range(10, 51):
        expected = 0.2 * (1 + math.cos(math.pi * (step - 10) / 40))
        assert float(rate(step)) == pytest.approx(expected, abs=1e-6)


def test_a_warm_up_of_all_steps_is_refused() -> None:
    choices = config(schedule="cosine", warmup_epochs=0.99, epochs=1)
    with pytest.raises(InputError, match=r"received 0\.99 epochs of 20 steps, which are all"):
        optimization.learning_rate(choices, steps_per_epoch=20)


def test_without_warm_up_the_cosine_begins_at_its_peak() -> None:
    rate = optimization.learning_rate(
        config(schedule="cosine", epochs=2, learning_rate=0.4), steps_per_epoch=10
    )
    assert [float(rate(step)) for step in (0, 10, 20)] == pytest.approx([0.4, 0.2, 0], abs=1e-6)


def test_the_average_is_that_of_the_weights() -> None:
    rule = optimization.build_optimizer(
        config(optimizer="sgd", learning_rate=1.0, ema=0.9), steps_per_epoch=10
    )
    weight = keras.Variable(np.zeros(1, np.float32))
    rule.build([weight])
    expected = None
    for step in range(5):
        rule.apply([np.ones(1, np.float32)], [weight])
        value = float(weight.value[0])
        expected = value if step == 0 else 0.9 * expected + 0.1 * value
        assert float(rule._model_variables_moving_average[0][0]) == pytest.approx(expected)
