import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from fer_tfdata.fast_layers import ByteDropout, FusedBatchNormalization, with_fast_layers
from fer_tfdata.models import seed_cnn


def gradients(layer, inputs, **kwargs):
    """Returns outputs, and the gradients of a function of them by inputs and weights."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, **kwargs)
        value = tf.reduce_sum(tf.sin(tf.cast(outputs, tf.float32)))
    variables = [variable.value for variable in layer.trainable_variables]
    return outputs, tape.gradient(value, [inputs, *variables])


@pytest.mark.parametrize("shape", [(8, 6, 5, 16), (3, 1, 1, 4), (32, 16)])
@pytest.mark.parametrize("training", [True, False])
def test_fused_normalisation_is_keras_s(shape, training) -> None:
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(3, 2, shape), tf.float32)
    fused, stock = FusedBatchNormalization(), layers.BatchNormalization()
    for layer in (fused, stock):
        layer.build(shape)
    weights = [rng.uniform(0.5, 2, weight.shape) for weight in stock.get_weights()]
    fused.set_weights(weights)
    stock.set_weights(weights)
    outputs, grads = gradients(fused, inputs, training=training)
    expected, expected_grads = gradients(stock, inputs, training=training)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    for grad, other in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, other, atol=2e-3)
    for weight, other in zip(fused.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5)


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"trainable": False}])
def test_what_the_kernel_does_not_know_goes_keras_s_way(options) -> None:
    inputs = tf.constant(np.random.default_rng(0).normal(3, 2, (8, 6, 5, 4)), tf.float32)
    outputs = FusedBatchNormalization(**options)(inputs, training=True)
    expected = layers.BatchNormalization(**options)(inputs, training=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_fused_normalisation_computes_moments_in_float32(dtype) -> None:
    inputs = tf.constant(np.random.default_rng(0).normal(100, 1, (64, 8, 8, 4)), tf.float32)
    layer = FusedBatchNormalization(dtype=dtype, momentum=0.0)
    outputs = layer(inputs, training=True)
    assert outputs.dtype == layer.compute_dtype
    assert layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(layer.moving_mean, [100] * 4, rtol=2e-3)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate) -> None:
    outputs = ByteDropout(rate)(tf.ones((1001, 999)), training=True).numpy()
    assert abs((outputs == 0).mean() - rate) < 0.005
    assert abs(outputs.mean() - 1) < 0.01
    assert len(np.unique(outputs)) == 2


def test_dropout_differs_each_time_and_is_off_outside_training() -> None:
    layer = ByteDropout(0.25)
    ones = tf.ones((64, 64))
    first, second = (layer(ones, training=True).numpy() for _ in range(2))
    assert not (first == second).all()
    assert (layer(ones, training=False).numpy() == 1).all()
    assert (ByteDropout(0.0)(ones, training=True).numpy() == 1).all()


def test_dropout_passes_the_gradient_of_what_it_kept() -> None:
    inputs = tf.constant(np.random.default_rng(0).normal(size=(50, 50)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = ByteDropout(0.5, seed=1)(inputs, training=True)
    grad = tape.gradient(outputs, inputs).numpy()
    np.testing.assert_array_equal(grad, np.where(outputs.numpy() == 0, 0, 2))


def test_fast_layers_take_the_weights_and_give_them_back() -> None:
    plain = seed_cnn(image_size=16)
    fast = with_fast_layers(plain)
    assert {FusedBatchNormalization, ByteDropout} <= {type(layer) for layer in fast.layers}
    batch = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), np.uint8)
    np.testing.assert_allclose(fast(batch, training=False), plain(batch, training=False), atol=1e-6)
    fast.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fast.train_on_batch(batch, np.array([0, 1, 2, 3]))
    plain.set_weights(fast.get_weights())
    np.testing.assert_allclose(fast(batch, training=False), plain(batch, training=False), atol=1e-5)


def test_one_step_of_training_is_that_of_stock_layers() -> None:
    # Without dropout, whose random numbers differ: then losses and weights must agree.
    def network():
        inputs = keras.Input((8, 8, 1))
        x = layers.Conv2D(4, 3, padding="same")(inputs)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return keras.Model(inputs, layers.Dense(7)(layers.Flatten()(x)))

    stock = network()
    fast = with_fast_layers(stock)
    rng = np.random.default_rng(0)
    batch, labels = rng.normal(size=(16, 8, 8, 1)).astype("float32"), rng.integers(0, 7, 16)
    for model in (stock, fast):
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses = [model.train_on_batch(batch, labels) for _ in range(3)]
        assert losses[2] < losses[0]
    for weight, other in zip(stock.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


def test_pooling_before_relu_is_the_same_function_with_the_same_gradient() -> None:
    def network():
        inputs = keras.Input((8, 8, 3))
        x = layers.ReLU(name="relu")(inputs)
        return keras.Model(inputs, layers.MaxPooling2D(2)(x))

    stock = network()
    fast = with_fast_layers(stock)
    assert [type(layer).__name__ for layer in fast.layers[1:]] == [
        "Identity",
        "RectifiedMaxPooling2D",
    ]
    batch = tf.constant(np.random.default_rng(0).normal(-0.5, 1, (16, 8, 8, 3)), tf.float32)
    results = []
    for model in (stock, fast):
        with tf.GradientTape() as tape:
            tape.watch(batch)
            outputs = model(batch)
            value = tf.reduce_sum(tf.sin(outputs) + outputs)
        results.append((outputs, tape.gradient(value, batch)))
    for result, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(result, expected)
    assert (results[0][0].numpy() == 0).any()


def test_a_relu_that_feeds_more_than_a_pooling_stays() -> None:
    inputs = keras.Input((8, 8, 3))
    rectified = layers.ReLU()(inputs)
    pooled = layers.MaxPooling2D(2)(rectified)
    model = keras.Model(inputs, [rectified, pooled])
    shared = keras.Model(inputs, [layers.MaxPooling2D(2)(rectified), layers.Flatten()(rectified)])
    capped = keras.Model(inputs, layers.MaxPooling2D(2)(layers.ReLU(max_value=1.0)(inputs)))
    for unchanged in (shared, capped, model):
        kinds = {type(layer) for layer in with_fast_layers(unchanged).layers}
        assert layers.ReLU in kinds
