"""Random changes of training images: a function of the images and a seed, of nothing else.

The same function runs in tf.data and on the device.  Every kind of change draws from a stream of
its own, so that switching one on leaves the draws of the others as they are.
"""

import math
from typing import Any, Final

import tensorflow as tf

from fer_tfdata.augmentation_config import AugmentationConfig, Placement, side_left

# A stream's place decides its draws; the flip draws from the seed itself.
_STREAMS: Final = (
    "shift",
    "rotation",
    "zoom",
    "brightness",
    "contrast",
    "erasing",
    "erasing_noise",
    "mixup",
    "cutmix",
    "cutmix_position",
    "mixup_or_cutmix",
    "rows",
)

# Of the rectangle that random erasing overwrites, as in the paper's experiments: its area as a
# share of the image's, and the least ratio of its sides (the greatest is the inverse).
_LEAST_ERASED: Final = 0.02
_MOST_ERASED: Final = 0.4
_LEAST_ASPECT: Final = 0.3


def choose_placement(augment_on: str, config: AugmentationConfig) -> Placement:
    """Returns where the augmentation runs: in tf.data ("input") or in the training step ("device").

    `auto` is the device where there is a GPU and pixels are resampled, and the input otherwise.  On
    a CPU both places share the same cores, and the input's share is done while the step before is
    computed (benchmarks/augmentation_benchmark.py measures it).  For a GPU the choice is reasoned,
    not measured: its step is so short that the CPU's resampling would be waited for.

    Args:
      augment_on: one of `augmentation_config.PLACEMENTS`.
      config: what is to run.
    """
    if augment_on == "auto":
        has_gpu = bool(tf.config.list_logical_devices("GPU"))
        return "device" if has_gpu and config.warps else "input"
    return "device" if augment_on == "device" else "input"


def augment(
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    *,
    config: AugmentationConfig,
    num_classes: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes a batch at random: warp, light, erasing, mixing, in this order.

    What lies between the first change and the last is float32 and is rounded once.

    Args:
      images: uint8 [n, height, width, channels].
      labels: int64 [n], or float32 [n, num_classes], shares that sum to 1.
      seed: int64 [2]; the same seed changes the same images in the same way.
      config: how much of what.
      num_classes: columns of mixed labels.

    Returns:
      Images, uint8 and of the same shape but for what `config.crop` cuts off; labels, as they
      came, or float32 [n, num_classes] where `config.mixes`.
    """
    if config.warps:
        images = _random_warp(images, seed, config)
    elif config.flip:
        images = random_flip(images, seed)
    if config.brightness or config.contrast:
        images = _random_light(images, seed, config)
    if config.erasing:
        images = _random_erasing(images, seed, config.erasing)
    if config.mixes:
        images, labels = _random_mix(images, soft_labels(labels, num_classes), seed, config)
    return _to_uint8(images), labels


def row_seeds(seed: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns a seed for each row of a batch, int64 [rows, 2], of which the first is the batch's.

    They are drawn, since seeds of batches may be neighbours: what is counted up from one of them
    would come upon the seeds of the batches that follow.

    Args:
      seed: int64 [2], the batch's.
      rows: how many, int [], at least 1.
    """
    drawn = tf.random.stateless_uniform([rows, 2], _stream(seed, "rows"), None, None, tf.int64)
    return tf.concat([seed[tf.newaxis], drawn[1:]], axis=0)


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors each image left to right with probability one half.

    Args:
      images: [n, height, width, channels], any dtype.
      seed: int64 [2]; the same seed flips the same images.

    Returns:
      Of the shape and dtype of `images`.
    """
    flipped = _random_flips(images, seed)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(flipped, tf.reverse(images, axis=[2]), images)


def shrink(images: tf.Tensor, share: float) -> tf.Tensor:
    """Scales images down by a share of their width and height; a pixel is the mean of its area.

    TensorFlow computes it on the host, where a GPU's batches are copied to and back.

    Args:
      images: uint8 [n, height, width, channels].
      share: 0 to less than 1.

    Returns:
      uint8 [n, round(height * (1 - share)), round(width * (1 - share)), channels].
    """
    return _to_uint8(tf.image.resize(images, _without(images, share), "area"))


def soft_labels(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Returns labels, int64 [n], as shares, float32 [n, num_classes]; shares stay what they are."""
    return labels if labels.dtype.is_floating else tf.one_hot(labels, num_classes)


def warp(
    images: tf.Tensor,
    *,
    flipped: tf.Tensor,
    shifts: tf.Tensor,
    angles: tf.Tensor,
    scales: tf.Tensor,
    size: tuple[int, int] | None = None,
) -> tf.Tensor:
    """Mirrors each image, scales and turns it about its centre and shifts it, in one resampling.

    Bilinear between the centres of pixels; beyond the border its pixels are repeated.

    Args:
      images: uint8 or float32 [n, height, width, channels].
      flipped: bool [n], which are mirrored left to right.
      shifts: float32 [n, 2], pixels to the right and down.
      angles: float32 [n], radians, counter-clockwise.
      scales: float32 [n], more than 1 enlarges.
      size: height and width of the middle part that is returned; None for the whole.

    Returns:
      float32 [n, height, width, channels].
    """
    whole = tf.shape(images)[1:3]
    centre_y, centre_x = tf.unstack(tf.cast(whole - 1, tf.float32) / 2)
    # The op asks for the point of the image that a pixel of the result shows, so these are the
    # inverse steps in the inverse order.
    middle_x, middle_y = (centre_x, centre_y) if size is None else _centre(size)
    x, y = middle_x + shifts[:, 0], middle_y + shifts[:, 1]
    cosine, sine = tf.cos(angles) / scales, tf.sin(angles) / scales
    mirror = tf.where(flipped, -1.0, 1.0)
    across, along = (mirror * cosine, -mirror * sine), (sine, cosine)
    zero = tf.zeros_like(angles)
    transforms = tf.stack(
        [
            *(*across, centre_x - across[0] * x - across[1] * y),
            *(*along, centre_y - along[0] * x - along[1] * y),
            *(zero, zero),
        ],
        axis=1,
    )
    # In float32, since the kernels for integers cut off what lies behind the point.  XLA has no
    # kernel for this op in TensorFlow 2.21, so it must not be in a function that XLA compiles.
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=transforms,
        output_shape=whole if size is None else size,
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    height, width = images.shape[1:3] if size is None else size
    return tf.ensure_shape(warped, [images.shape[0], height, width, images.shape[3]])


def _centre(size: tuple[int, int]) -> tuple[float, float]:
    """Returns where the middle of an image of a height and a width lies: to the right, down."""
    height, width = size
    return (width - 1) / 2, (height - 1) / 2


def _random_warp(images: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    count = tf.shape(images)[:1]
    flips = _random_flips(images, seed) if config.flip else tf.fill(count, False)
    width_height = tf.cast(tf.shape(images)[2:0:-1], tf.float32)
    return warp(
        images,
        flipped=flips,
        shifts=_uniform(seed, "shift", [count[0], 2], config.shift) * width_height,
        angles=_uniform(seed, "rotation", count, math.radians(config.rotation)),
        # As often so many times larger as so many times smaller.
        scales=tf.exp(_uniform(seed, "zoom", count, math.log1p(config.zoom))),
        size=_without(images, config.crop) if config.crop else None,
    )


def _without(images: tf.Tensor, share: float) -> tuple[int, int]:
    """Returns the height and the width that are left of images without a share of each."""
    height, width = (side_left(side, share) for side in images.shape[1:3])
    return height, width


def _random_light(images: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Stretches each image's pixels about their mean, and makes all of them lighter or darker."""
    pixels = tf.cast(images, tf.float32)
    each = [tf.shape(images)[0], 1, 1, 1]
    added = _uniform(seed, "brightness", each, 255 * config.brightness)
    stretch = _uniform(seed, "contrast", each, config.contrast)
    mean = tf.reduce_mean(pixels, axis=[1, 2, 3], keepdims=True)
    # Written so that graph optimization finds nothing to reorder, and every place gives equal bits.
    return tf.clip_by_value(pixels * (1 + stretch) + (added - mean * stretch), 0, 255)


def _random_erasing(images: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Overwrites a rectangle with noise (Zhong et al. 2017, arXiv:1708.04896, "RE-R").

    The paper draws anew until a rectangle fits.  Here the ratio of its sides is drawn among those
    that fit, and is relative to the image's own, the same thing for a square.

    Returns:
      Of the shape and dtype of `images`.
    """
    count, height, width, _ = tf.unstack(tf.shape(images))
    draws = tf.random.stateless_uniform([5, count], _stream(seed, "erasing"))
    chosen, area, aspect, down, right = tf.unstack(draws)
    area = _LEAST_ERASED + (_MOST_ERASED - _LEAST_ERASED) * area
    farthest = -tf.math.log(tf.maximum(area, _LEAST_ASPECT))  # from a square, either way
    aspect = tf.exp((2 * aspect - 1) * farthest)
    box_height = _round(tf.sqrt(area * aspect) * tf.cast(height, tf.float32))
    box_width = _round(tf.sqrt(area / aspect) * tf.cast(width, tf.float32))
    erased = _boxes(
        images,
        top=_floor(down * tf.cast(height - box_height + 1, tf.float32)),
        left=_floor(right * tf.cast(width - box_width + 1, tf.float32)),
        height=tf.where(chosen < probability, box_height, 0),
        width=box_width,
    )
    return tf.where(erased, tf.cast(_noise(images, seed), images.dtype), images)


def _noise(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns random bytes, uint8 of the shape of `images`; a draw of 32 bits gives four."""
    size = tf.size(images)
    draws = tf.random.stateless_uniform(
        [(size + 3) // 4], _stream(seed, "erasing_noise"), None, None, tf.int32
    )
    noise = tf.reshape(tf.bitcast(draws, tf.uint8), [-1])[:size]
    return tf.reshape(noise, tf.shape(images))


def _random_mix(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image and its label with those before it in the batch, the first with the last.

    By MixUp (Zhang et al. 2018, arXiv:1710.09412) or CutMix (Yun et al. 2019, arXiv:1905.04899),
    each with a share of its own for each image; where both are on, by either with probability one
    half.  A batch is in random order, so the one before is a random other one.

    Returns:
      Images, float32; labels, float32.
    """
    each = [tf.shape(images)[0], 1, 1, 1]
    if config.mixup:
        weights = _beta(seed, "mixup", config.mixup, each)
    if config.cutmix:
        kept = _cutmix_weights(images, seed, config.cutmix)
        if config.mixup:
            by_cutmix = _uniform(seed, "mixup_or_cutmix", each, 1) < 0
            weights = tf.where(by_cutmix, kept, weights)
        else:
            weights = kept
    pixels = tf.cast(images, tf.float32)
    # What is left of an image after the box was clipped, not what was drawn for it.
    shares = tf.reduce_mean(weights, axis=[1, 2])
    return (
        weights * pixels + (1 - weights) * tf.roll(pixels, 1, axis=0),
        shares * labels + (1 - shares) * tf.roll(labels, 1, axis=0),
    )


def _cutmix_weights(images: tf.Tensor, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """Returns float32 [n, height, width, 1]: 1 where an image is kept, 0 where it is replaced."""
    count, height, width, _ = tf.unstack(tf.shape(images))
    side = tf.sqrt(1 - _beta(seed, "cutmix", alpha, [count]))
    draws = tf.random.stateless_uniform([2, count], _stream(seed, "cutmix_position"))
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    box_height, box_width = _round(side * rows), _round(side * columns)
    replaced = _boxes(
        images,
        top=_floor(draws[0] * rows) - box_height // 2,
        left=_floor(draws[1] * columns) - box_width // 2,
        height=box_height,
        width=box_width,
    )
    return 1 - tf.cast(replaced, tf.float32)


def _boxes(
    images: tf.Tensor, *, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Returns which pixels lie in boxes given in pixels, int32 [n]; bool [n, rows, columns, 1]."""
    rows, columns = tf.range(tf.shape(images)[1]), tf.range(tf.shape(images)[2])
    top, left = top[:, tf.newaxis], left[:, tf.newaxis]
    in_rows = (top <= rows) & (rows < top + height[:, tf.newaxis])
    in_columns = (left <= columns) & (columns < left + width[:, tf.newaxis])
    return in_rows[:, :, tf.newaxis, tf.newaxis] & in_columns[:, tf.newaxis, :, tf.newaxis]


def _random_flips(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(tf.shape(images)[:1], seed) < 0.5


def _uniform(seed: tf.Tensor, stream: str, shape: Any, farthest: float) -> tf.Tensor:
    """Draws float32 from -farthest to farthest."""
    return tf.random.stateless_uniform(shape, _stream(seed, stream), -farthest, farthest)


def _beta(seed: tf.Tensor, stream: str, alpha: float, shape: Any) -> tf.Tensor:
    """Draws float32 from Beta(alpha, alpha), as the share of one of two gamma variates.

    Of a small alpha, both variates are too small for a float, and their shares would be halves.
    Hence their logarithms, by Gamma(alpha) = Gamma(1 + alpha) * U^(1 / alpha).
    """
    gammas_seed, powers_seed = tf.unstack(
        tf.random.experimental.stateless_split(_stream(seed, stream), 2)
    )
    gammas = tf.math.log(tf.random.stateless_gamma([2, *shape], gammas_seed, 1 + alpha))
    powers = tf.math.log(1 - tf.random.stateless_uniform([2, *shape], powers_seed))  # never of 0
    return tf.sigmoid(gammas[0] - gammas[1] + (powers[0] - powers[1]) * (1 / alpha))


def _stream(seed: tf.Tensor, name: str) -> tf.Tensor:
    number = tf.constant(_STREAMS.index(name), tf.int64)
    return tf.random.experimental.stateless_fold_in(seed, number)


def _round(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(values), tf.int32)


def _floor(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.floor(values), tf.int32)


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.saturate_cast(tf.round(pixels), tf.uint8) if pixels.dtype.is_floating else pixels
