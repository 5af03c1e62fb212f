import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from fer_tfdata.fast_layers import with_fast_layers
from fer_tfdata.models import BUILDERS, seed_cnn
from fer_tfdata.precision import policy_scope
from fer_tfdata.train_config import MODELS


def images(count: int, size: int = 48, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


def test_the_configuration_names_every_builder() -> None:
    assert tuple(BUILDERS) == MODELS


def test_seed_cnn_is_the_network_it_stands_for() -> None:
    model = seed_cnn()
    assert model.count_params() == 4_478_727
    kinds = [type(layer).__name__ for layer in model.layers]
    conv = ["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D", "Dropout"]
    dense = ["Dense", "BatchNormalization", "ReLU", "Dropout"]
    assert kinds == ["InputLayer", "Rescaling", *conv * 4, "Flatten", *dense * 2, "Dense"]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [(layer.filters, layer.kernel_size) for layer in convolutions] == [
        (64, (3, 3)),
        (128, (5, 5)),
        (512, (3, 3)),
        (512, (3, 3)),
    ]
    assert {layer.padding for layer in convolutions} == {"same"}
    rates = {layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    assert rates == {0.25}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mini_xception", 58_423),
        ("residual_small", 273_671),
        ("residual_medium", 2_780_679),
        ("residual_large", 11_099_143),
        ("residual_attention", 2_845_887),
        ("vgg", 7_645_767),
    ],
)
def test_the_families_are_as_large_as_they_say(name, weights) -> None:
    model = BUILDERS[name]()
    assert model.count_params() == weights
    assert model.name == name
    assert model.layers[-1].name == "logits"


def test_the_small_network_drops_nothing_and_larger_ones_do() -> None:
    for name, drops in (("residual_small", False), ("residual_medium", True)):
        kinds = {type(layer) for layer in BUILDERS[name](image_size=16).layers}
        assert (keras.layers.Dropout in kinds) == drops


def test_attention_multiplies_each_channel_of_an_image_by_one_number_between_0_and_1() -> None:
    model = BUILDERS["residual_attention"](image_size=16)
    block = "stage2_block1"
    before, after = (
        model.get_layer(f"{block}_{name}").output for name in ("conv2_bn", "attention")
    )
    seen, weighed = keras.Model(model.inputs[0], [before, after])(images(3, 16), training=False)
    ratios = weighed.numpy() / seen.numpy()
    assert (ratios > 0).all()
    assert (ratios < 1).all()
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[:, :1, :1], ratios.shape), rtol=1e-5)
    assert np.ptp(ratios[:, 0, 0], axis=0).min() > 0  # no image is weighed as another


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"seed_cnn"}))
def test_what_ends_with_an_average_takes_images_of_any_size(name) -> None:
    model = BUILDERS[name](image_size=None)
    for size in (40, 48):
        assert model(images(2, size), training=False).shape == (2, 7)


def test_what_ends_flat_does_not() -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # Keras's own words
        seed_cnn(image_size=None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_images_are_uint8_and_logits_float32_under_every_policy(name, policy) -> None:
    with policy_scope(policy):
        model = BUILDERS[name](image_size=16)
    assert model.inputs[0].dtype == "uint8"
    assert model.outputs[0].dtype == "float32"
    logits = model(images(2, 16), training=False).numpy()
    assert logits.dtype == np.float32
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("size", "channels"), [(16, 1), (50, 3), pytest.param(64, 1, marks=pytest.mark.slow)]
)
def test_size_and_channels_are_parameters(name, size, channels) -> None:
    model = BUILDERS[name](image_size=size, channels=channels, num_classes=8)
    assert model(images(1, size, channels), training=False).shape == (1, 8)


@pytest.mark.slow
def test_mini_xception_trains_in_float32() -> None:
    # In a process of its own: a convolution that wrote beyond its memory ended it.
    code = (
        "import numpy as np, keras; from fer_tfdata.models import mini_xception;"
        "model = mini_xception();"
        "model.compile('adam', keras.losses.SparseCategoricalCrossentropy(from_logits=True));"
        "images = np.random.default_rng(0).integers(0, 256, (14, 48, 48, 1), np.uint8);"
        "losses = [model.train_on_batch(images, np.arange(14) % 7) for _ in range(30)];"
        "assert losses[-1] < losses[0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_350_pixels_build_and_train_a_step(name) -> None:
    with policy_scope("mixed_bfloat16"):
        model = with_fast_layers(BUILDERS[name](image_size=350))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.layers[2].get_weights()[0].copy()
    loss = model.train_on_batch(images(2, 350), np.array([0, 3]))
    assert np.isfinite(loss)
    assert not np.array_equal(before, model.layers[2].get_weights()[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_loads_in_plain_keras(name, tmp_path: Path) -> None:
    model = BUILDERS[name]()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    batch = images(3)
    np.testing.assert_array_equal(model(batch, training=False), loaded(batch, training=False))
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
