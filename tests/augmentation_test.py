import numpy as np
import tensorflow as tf

from fer_tfdata import augmentation


def test_a_flip_mirrors_some_images_and_keeps_the_others() -> None:
    images = np.arange(200 * 4 * 6 * 1, dtype=np.uint8).reshape(200, 4, 6, 1)
    flipped = augmentation.random_flip(tf.constant(images), tf.constant([1, 2], tf.int64)).numpy()
    assert flipped.dtype == np.uint8
    mirrored = np.array(
        [
            (a[:, ::-1] == b).all() and not (a == b).all()
            for a, b in zip(images, flipped, strict=True)
        ]
    )
    assert (flipped[~mirrored] == images[~mirrored]).all()
    assert 60 < mirrored.sum() < 140


def test_the_seed_decides_also_inside_a_graph() -> None:
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (64, 5, 5, 1), np.uint8))
    seeds = [tf.constant([0, n], tf.int64) for n in (7, 7, 8)]
    eager = [augmentation.random_flip(images, seed).numpy() for seed in seeds]
    assert (eager[0] == eager[1]).all()
    assert not (eager[0] == eager[2]).all()
    assert (tf.function(augmentation.random_flip)(images, seeds[0]).numpy() == eager[0]).all()
