import dataclasses
import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from fer_tfdata import augmentation, demo_faces
from fer_tfdata.augmentation_config import AugmentationConfig

NOTHING = AugmentationConfig(flip=False)
EVERYTHING = AugmentationConfig(
    shift=0.1,
    rotation=15,
    zoom=0.2,
    brightness=0.2,
    contrast=0.2,
    erasing=0.5,
    mixup=0.4,
    cutmix=1.0,
)
OPS = {
    "flip": AugmentationConfig(),
    "shift": dataclasses.replace(NOTHING, shift=0.2),
    "rotation": dataclasses.replace(NOTHING, rotation=30),
    "zoom": dataclasses.replace(NOTHING, zoom=0.3),
    "brightness": dataclasses.replace(NOTHING, brightness=0.3),
    "contrast": dataclasses.replace(NOTHING, contrast=0.5),
    "erasing": dataclasses.replace(NOTHING, erasing=1.0),
    "mixup": dataclasses.replace(NOTHING, mixup=0.5),
    "cutmix": dataclasses.replace(NOTHING, cutmix=1.0),
    "everything": EVERYTHING,
}
SEED = np.array([3, 5], np.int64)
OTHER_SEED = np.array([3, 6], np.int64)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.stack([demo_faces.draw_face(number % 7, seed=number) for number in range(64)])[
        ..., np.newaxis
    ]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.arange(64) % 6  # each has another one before it, the first too


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def augmented(images, labels, seed=SEED, *, config):
    results = augmentation.augment(
        tf.constant(images), tf.constant(labels), tf.constant(seed), config=config, num_classes=7
    )
    return tuple(result.numpy() for result in results)


def warped(images, *, flipped=False, shift=(0, 0), angle=0.0, scale=1.0):
    count = len(images)
    return augmentation.warp(
        tf.constant(images),
        flipped=tf.fill([count], flipped),
        shifts=tf.constant([shift] * count, tf.float32),
        angles=tf.fill([count], np.float32(angle)),
        scales=tf.fill([count], np.float32(scale)),
    ).numpy()


# What holds for every kind of change.


@pytest.mark.parametrize("config", OPS.values(), ids=OPS)
def test_the_seed_decides(faces, labels, config) -> None:
    images, targets = augmented(faces, labels, config=config)
    assert images.dtype == np.uint8
    assert images.shape == faces.shape
    again, same_targets = augmented(faces, labels, config=config)
    assert (images == again).all()
    assert (targets == same_targets).all()
    other, _ = augmented(faces, labels, OTHER_SEED, config=config)
    assert (images != other).any()
    assert (images != faces).any()


@pytest.mark.parametrize("config", OPS.values(), ids=OPS)
def test_everywhere_the_bits_are_the_same(faces, labels, config) -> None:
    function = functools.partial(augmentation.augment, config=config, num_classes=7)
    eager = augmented(faces, labels, config=config)
    compiled = tf.function(function)(tf.constant(faces), tf.constant(labels), tf.constant(SEED))
    dataset = tf.data.Dataset.from_tensors((faces, labels, SEED)).map(function)
    (mapped,) = dataset.as_numpy_iterator()
    for a, b, c in zip(eager, compiled, mapped, strict=True):
        assert (a == b.numpy()).all()
        assert (a == c).all()
    assert dataset.element_spec[0].shape == faces.shape


def test_the_bits_are_the_same_for_a_batch_of_unknown_size_and_under_any_policy(
    faces, labels
) -> None:
    batch = tuple(tf.constant(values) for values in (faces, labels, SEED))
    function = tf.function(
        functools.partial(augmentation.augment, config=EVERYTHING, num_classes=7),
        input_signature=[
            tf.TensorSpec([None, 48, 48, 1], tf.uint8),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([2], tf.int64),
        ],
    )
    assert function.get_concrete_function().outputs[0].shape == (None, 48, 48, 1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        received = function(*batch)
    finally:
        keras.config.set_dtype_policy(before)
    for a, b in zip(augmented(faces, labels, config=EVERYTHING), received, strict=True):
        assert (a == b.numpy()).all()


@pytest.mark.parametrize("shape", [(1, 48, 48, 1), (5, 20, 33, 3), (3, 64, 16, 1)])
def test_images_of_any_size_and_batches_of_one(shape) -> None:
    images, targets = augmented(random_images(*shape), np.arange(shape[0]), config=EVERYTHING)
    assert images.shape == shape
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)


def test_a_shrunk_image_s_pixels_are_the_means_of_their_areas() -> None:
    images = random_images(5, 48, 24, 3)
    means = images.reshape(5, 24, 2, 12, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(augmentation.shrink(images, 0.5), means, atol=0.5)
    flat = augmentation.shrink(np.full((2, 48, 48, 1), 77, np.uint8), 1 / 3)
    assert flat.dtype == tf.uint8
    assert (flat.numpy() == np.full((2, 32, 32, 1), 77)).all()
    assert (augmentation.shrink(images, 0.0).numpy() == images).all()


def test_nothing_is_nothing(faces, labels) -> None:
    images, targets = augmented(faces, labels, config=NOTHING)
    assert (images == faces).all()
    assert (targets == labels).all()


def test_switching_one_change_on_leaves_the_draws_of_the_others(faces, labels) -> None:
    alone, _ = augmented(faces, labels, config=OPS["erasing"])
    erased = alone != faces
    with_brightness = dataclasses.replace(OPS["erasing"], brightness=0.3)
    both, _ = augmented(faces, labels, config=with_brightness)
    # The noise lies over what was made brighter.
    assert (both[erased] == alone[erased]).all()
    flips = augmented(faces, labels, config=AugmentationConfig())[0]
    flips_and_more = augmented(faces, labels, config=AugmentationConfig(mixup=0.0, contrast=1e-9))
    assert (flips == flips_and_more[0]).all()


def streams(monkeypatch, config: AugmentationConfig) -> dict[str, tuple[int, ...]]:
    """Returns the seeds that a batch is changed with, each by its name."""
    seeds = {}
    stream = augmentation._stream

    def note(seed, name):
        seeds[name] = tuple(stream(seed, name).numpy())
        return stream(seed, name)

    with monkeypatch.context() as patch:
        patch.setattr(augmentation, "_stream", note)
        augmented(random_images(2, 8, 8, 1), np.zeros(2, np.int64), config=config)
        augmentation.row_seeds(tf.constant(SEED), 2)
    return seeds


@pytest.mark.parametrize("name", [name for name in OPS if name not in ("flip", "everything")])
def test_each_change_has_a_stream_of_its_own_whatever_else_is_on(monkeypatch, name) -> None:
    alone, all_on = streams(monkeypatch, OPS[name]), streams(monkeypatch, EVERYTHING)
    assert name in alone
    assert alone.items() <= all_on.items()
    assert len({*all_on.values(), tuple(SEED)}) == 1 + len(augmentation._STREAMS)


def test_the_rows_of_neighbouring_batches_have_seeds_of_their_own() -> None:
    batches = [augmentation.row_seeds(tf.constant(seed), 50) for seed in (SEED, OTHER_SEED)]
    assert [tuple(seeds[0].numpy()) for seeds in batches] == [tuple(SEED), tuple(OTHER_SEED)]
    assert len({tuple(seed) for seeds in batches for seed in seeds.numpy()}) == 100


# The warp.


def test_the_identity_is_exact() -> None:
    images = random_images(4, 21, 34, 3)
    assert (warped(images) == images).all()


def test_a_mirror_image_is_exact() -> None:
    images = random_images(4, 21, 34, 3)
    assert (warped(images, flipped=True) == images[:, :, ::-1]).all()


@pytest.mark.parametrize(("right", "down"), [(5, 0), (-5, 0), (0, 7), (0, -7), (3, -4)])
def test_whole_shifts_are_exact_and_repeat_the_border(right, down) -> None:
    images = random_images(2, 20, 30, 1)
    rows = np.clip(np.arange(20) - down, 0, 19)
    columns = np.clip(np.arange(30) - right, 0, 29)
    assert (warped(images, shift=(right, down)) == images[:, rows][:, :, columns]).all()


def test_quarter_turns_are_counter_clockwise() -> None:
    images = random_images(2, 24, 24, 1)
    turned = warped(images, angle=np.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(images, axes=(1, 2)), atol=0.01)


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values between the centres of pixels, the border repeated; an independent way."""
    height, width = image.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = x - left, y - top
    upper = (1 - a) * image[top, left] + a * image[top, right]
    lower = (1 - a) * image[bottom, left] + a * image[bottom, right]
    return (1 - b) * upper + b * lower


@pytest.mark.parametrize(("height", "width"), [(26, 31), (33, 12)])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("scale", [0.8, 1.0, 1.3])
def test_the_warp_is_mirror_zoom_turn_and_shift_about_the_centre(
    height, width, flipped, scale
) -> None:
    angle, (right, down) = np.radians(20), (1.5, -2.25)
    image = random_images(1, height, width, 3)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    # Back from a pixel of the result: the shift, the turn, the zoom, the mirror.
    x, y = columns - right - middle_x, rows - down - middle_y
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    x, y = x / scale * (-1 if flipped else 1), y / scale
    result = warped(image, flipped=flipped, shift=(right, down), angle=angle, scale=scale)
    for channel in range(3):
        plane = image[0, :, :, channel].astype(np.float64)
        expected = bilinear(plane, x + middle_x, y + middle_y)
        np.testing.assert_allclose(result[0, :, :, channel], expected, atol=0.05)


def test_each_image_is_warped_by_its_own_numbers() -> None:
    images = random_images(3, 14, 11, 1)
    numbers = {
        "flipped": np.array([False, True, False]),
        "shifts": np.array([[1.5, 0], [0, -1], [0, 0]], np.float32),
        "angles": np.array([0.2, 0, -0.7], np.float32),
        "scales": np.array([1, 1.25, 0.8], np.float32),
    }
    together = augmentation.warp(
        tf.constant(images), **{name: tf.constant(values) for name, values in numbers.items()}
    )
    for number, image in enumerate(together.numpy()):
        flipped, shift, angle, scale = (values[number] for values in numbers.values())
        alone = warped(
            images[number : number + 1], flipped=flipped, shift=shift, angle=angle, scale=scale
        )
        assert (image == alone[0]).all()


def test_warps_are_drawn_from_the_whole_of_their_ranges(monkeypatch) -> None:
    numbers = {}

    def note(images, **values):
        assert values.pop("size") is None
        numbers.update({name: value.numpy() for name, value in values.items()})
        return tf.cast(images, tf.float32)

    monkeypatch.setattr(augmentation, "warp", note)
    config = dataclasses.replace(NOTHING, shift=0.25, rotation=30, zoom=0.5)
    augmented(random_images(4000, 4, 8, 1), np.zeros(4000, np.int64), config=config)
    ranges = [
        (numbers["shifts"][:, 0], 0.25 * 8),
        (numbers["shifts"][:, 1], 0.25 * 4),
        (numbers["angles"], math.radians(30)),
        (np.log(numbers["scales"]), math.log(1.5)),
    ]
    for values, farthest in ranges:
        for end in (values.max(), -values.min()):
            assert 0.99 * farthest < end <= farthest * (1 + 1e-6)
        assert abs(values.mean()) < 0.05 * farthest
    assert not numbers["flipped"].any()
    assert np.abs(np.corrcoef([values for values, _ in ranges]) - np.eye(4)).max() < 0.1


def test_half_of_the_images_are_mirrored_with_and_without_a_warp(labels) -> None:
    images = random_images(2000, 4, 4, 1)
    many = np.zeros(2000, np.int64)
    plain, _ = augmented(images, many, config=AugmentationConfig())
    mirrored = (plain == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (plain == images).all(axis=(1, 2, 3))).all()
    assert 0.45 < mirrored.mean() < 0.55
    # A warp too small to be seen mirrors the same ones.
    warped_ones, _ = augmented(images, many, config=AugmentationConfig(shift=1e-6))
    assert (warped_ones == plain).all()


# Light, erasing and mixing.


def test_light_is_bounded_by_its_flags() -> None:
    grey = np.full((200, 8, 8, 1), 128, np.uint8)
    many = np.zeros(200, np.int64)
    brighter, _ = augmented(grey, many, config=OPS["brightness"])
    added = brighter[:, 0, 0, 0].astype(int) - 128
    assert (brighter == brighter[:, :1, :1]).all()
    assert np.abs(added).max() <= round(255 * 0.3)
    assert added.min() < -60 < 60 < added.max()
    # Of one colour, an image has no contrast to change.
    assert (augmented(grey, many, config=OPS["contrast"])[0] == grey).all()


def test_contrast_keeps_the_mean(faces, labels) -> None:
    middle = (faces // 4 + 96).astype(np.uint8)  # far from black and white
    images, _ = augmented(middle, labels, config=OPS["contrast"])
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), middle.mean(axis=(1, 2, 3)), atol=0.51)
    spread = images.std(axis=(1, 2, 3)) / middle.std(axis=(1, 2, 3))
    assert 0.49 < spread.min() < 0.7
    assert 1.3 < spread.max() < 1.51


def test_erasing_overwrites_one_rectangle_of_2_to_40_percent() -> None:
    # Of an image of zeros, noise is seen but for one byte in 256.
    images, _ = augmented(
        np.zeros((300, 48, 48, 1), np.uint8), np.zeros(300), config=OPS["erasing"]
    )
    for image in images[..., 0] > 0:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.95
        assert 0.015 < box.size / image.size < 0.42
        assert 0.25 < box.shape[0] / box.shape[1] < 4
    # Anywhere: each border of the image belongs to some.
    for border in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
        assert 0.02 < border.any(axis=(1, 2)).mean() < 0.5
    quarter, _ = augmented(
        np.zeros((1000, 8, 8, 1), np.uint8),
        np.zeros(1000),
        config=dataclasses.replace(NOTHING, erasing=0.25),
    )
    assert 0.2 < quarter.any(axis=(1, 2, 3)).mean() < 0.3


@pytest.mark.parametrize("shape", [(48, 48, 1), (35, 35, 3)])  # of bytes no multiple of four
def test_what_is_erased_becomes_noise_of_every_value(shape) -> None:
    images, _ = augmented(np.full((201, *shape), 7, np.uint8), np.zeros(201), config=OPS["erasing"])
    counts = np.delete(np.bincount(images[images != 7], minlength=256), 7)
    assert counts.min() > 0.8 * counts.mean()
    assert len({image.tobytes() for image in images}) == 201


def test_mixup_mixes_images_and_labels_by_the_same_share(faces, labels) -> None:
    images, targets = augmented(faces, labels, config=OPS["mixup"])
    own, others = np.eye(7)[labels], np.eye(7)[np.roll(labels, 1)]
    shares = (targets * own).sum(axis=1)  # neighbours have different labels
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        targets, shares[:, None] * own + (1 - shares[:, None]) * others, atol=1e-6
    )
    assert ((shares >= 0) & (shares <= 1)).all()
    weights = shares[:, None, None, None]
    expected = weights * faces + (1 - weights) * np.roll(faces, 1, axis=0)
    assert np.abs(images - expected).max() <= 0.51


def test_cutmix_replaces_a_box_and_labels_by_the_area_that_is_left(labels) -> None:
    numbers = np.arange(64, dtype=np.uint8)[:, None, None, None]
    images, targets = augmented(
        np.broadcast_to(numbers, (64, 20, 30, 1)).copy(), labels, config=OPS["cutmix"]
    )
    kept = images == numbers
    assert (kept | (images == np.roll(numbers, 1, axis=0))).all()
    shares = kept.mean(axis=(1, 2, 3))
    np.testing.assert_allclose((targets * np.eye(7)[labels]).sum(axis=1), shares, atol=1e-6)
    for replaced in ~kept[..., 0]:
        rows, columns = np.flatnonzero(replaced.any(axis=1)), np.flatnonzero(replaced.any(axis=0))
        if len(rows):
            assert replaced[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert shares.min() < 0.4
    assert shares.max() > 0.9


def test_with_mixup_and_cutmix_each_image_gets_either(faces, labels) -> None:
    config = dataclasses.replace(NOTHING, mixup=0.5, cutmix=1.0)
    both, _ = augmented(faces, labels, config=config)
    by_mixup, _ = augmented(faces, labels, config=OPS["mixup"])
    by_cutmix, _ = augmented(faces, labels, config=OPS["cutmix"])
    as_mixup = (both == by_mixup).all(axis=(1, 2, 3))
    as_cutmix = (both == by_cutmix).all(axis=(1, 2, 3))
    assert (as_mixup | as_cutmix).all()
    assert 0.25 < as_cutmix.mean() < 0.75


def test_soft_labels_are_mixed_as_they_are(faces) -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(7), len(faces)).astype(np.float32)
    _, targets = augmented(faces, shares, config=OPS["mixup"])
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    _, plain = augmented(faces, shares, config=AugmentationConfig())
    assert (plain == shares).all()


@pytest.mark.parametrize("alpha", [1e-30, 1e-6, 1e-3, 1.0, 100.0])
def test_any_alpha_gives_shares(faces, labels, alpha) -> None:
    for config in (
        dataclasses.replace(NOTHING, mixup=alpha),
        dataclasses.replace(NOTHING, cutmix=alpha),
    ):
        _, targets = augmented(faces, labels, config=config)
        assert np.isfinite(targets).all()
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.05, 0.4, 1.0, 8.0])
def test_the_shares_are_those_of_beta(alpha) -> None:
    shares = augmentation._beta(tf.constant(SEED), "mixup", alpha, [20_000]).numpy()
    shares = shares.astype(np.float64)
    variance = 1 / (4 * (2 * alpha + 1))
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / len(shares)))
    assert shares.var() == pytest.approx(variance, rel=0.05)


def test_mixup_with_a_tiny_alpha_takes_one_image_or_the_other(faces, labels) -> None:
    images, _ = augmented(faces, labels, config=dataclasses.replace(NOTHING, mixup=1e-6))
    own = (images == faces).all(axis=(1, 2, 3))
    other = (images == np.roll(faces, 1, axis=0)).all(axis=(1, 2, 3))
    assert (own ^ other).all()
    assert 0.25 < own.mean() < 0.75


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_one_image_is_mixed_with_itself(name) -> None:
    images = random_images(1, 20, 12, 3)
    mixed, targets = augmented(images, np.array([4]), config=OPS[name])
    assert (mixed == images).all()
    np.testing.assert_allclose(targets, np.eye(7)[[4]], atol=1e-6)


@pytest.mark.parametrize(
    ("augment_on", "config", "on_cpu", "on_gpu"),
    [
        ("auto", EVERYTHING, "input", "device"),
        ("auto", OPS["rotation"], "input", "device"),
        ("auto", OPS["cutmix"], "input", "input"),
        ("auto", OPS["flip"], "input", "input"),
        ("input", EVERYTHING, "input", "input"),
        ("device", OPS["flip"], "device", "device"),
    ],
)
def test_a_gpu_resamples_unless_asked_otherwise(
    monkeypatch, augment_on, config, on_cpu, on_gpu
) -> None:
    for devices, expected in (([], on_cpu), (["GPU:0"], on_gpu)):
        # The visible ones, which is where the pipeline puts its batches.
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind, found=devices: found)
        assert augmentation.choose_placement(augment_on, config) == expected
