"""Finds the same photograph where its pixels differ: re-encoded, re-cropped, brighter, captioned.

Each image leaves a signature of 91 bytes: the lowest frequencies of its cosine transform, without
brightness and contrast.  The search runs over the signatures alone, in time that grows little
faster than their number:

1. Equal signatures are set aside, so that a crowd of them costs no more than other images.
2. The others are sorted by bits of random projections (Charikar, "Similarity Estimation Techniques
   from Rounding Algorithms", 2002), several times, each time by other projections.  Images that
   resemble each other come to stand near each other in most of the orders.
3. Neighbours in an order are compared by the correlation of their lowest frequencies, also with
   one of them shifted by some pixels.
4. Those that correlate are aligned, by shift and scale (Lucas and Kanade, "An Iterative Image
   Registration Technique", 1981), and are near-duplicates where they then correlate in all
   frequencies.

What decides between two images is computed from exact integers or from the two alone, so that
the answer hangs neither on batches nor on passes.  Mirrored images are not found.
"""

import collections
import dataclasses
import functools
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

import joblib
import numpy as np
import numpy.typing as npt
import threadpoolctl

from fer_tfdata.errors import InputError

# Frequencies are counted in half periods across the image.
_MAX_RADIUS: Final = 10.05
_GRID: Final = 16
_FREQUENCIES: Final = tuple(
    sorted(
        ((y, x) for y in range(_GRID) for x in range(_GRID) if 0 < y * y + x * x <= _MAX_RADIUS**2),
        key=lambda frequency: (frequency[0] ** 2 + frequency[1] ** 2, frequency),
    )
)
_Y: Final = np.array([y for y, _ in _FREQUENCIES])
_X: Final = np.array([x for _, x in _FREQUENCIES])
_RADII: Final = np.hypot(_Y, _X)
_NUM_WAVES: Final = int(max(_Y.max(), _X.max())) + 1

SIGNATURE_DTYPE: Final = np.dtype([("coefficients", "i1", (len(_FREQUENCIES),))])
"""A signature: int8 coefficients of the cosine transform, by ascending frequency.

Each is weighted by its frequency, since a photograph's amplitudes fall with it.  All are zero for
an image of one colour.
"""

# The length of the vector of coefficients; with it one in a thousand is clipped to an int8.
_LENGTH: Final = 300

# Where two of FER2013's images correlate so much once aligned, they are the same photograph in
# nine of ten cases and, from 0.92 on, in nearly all; from 0.88 to 0.90 in one of three.
_LEAST_CORRELATION: Final = 0.90

# The search.
_KEY_BYTES: Final = 5
_BLOCK: Final = 512  # rows of an order; each is compared with its block and the one before
_MOST_CANDIDATES: Final = 8  # of a row in one block, the most similar ones
_MOST_PARTNERS: Final = 32  # an image that has so many is left out of the orders that follow
_ROWS_A_READ: Final = 1 << 14
_ROWS_A_PASS: Final = 1 << 19
_ROWS_A_MAPPING: Final = 1 << 10  # the system maps 64 KiB around what is read: 64 MB
_SAMPLE: Final = 1 << 12

# The comparison of neighbours.  Two vectors of integers have exact products in float32 while these
# stay below 2**24, whatever the order in which they are added up.
_NUM_LOWEST: Final = 32
_LOWEST_LENGTH: Final = 127
_LEAST_LOWEST_CORRELATION: Final = 0.87
_SHIFT: Final = 2.5 / 48  # of the image's width
_SHIFTS: Final = ((0.0, 0.0), (_SHIFT, 0.0), (-_SHIFT, 0.0), (0.0, _SHIFT), (0.0, -_SHIFT))

# The alignment.
_POINTS: Final = ((np.arange(12) + 0.5) / 12)[1:-1].astype(np.float32)  # without the margins
_STEPS: Final = 3
_MOST_MOTION: Final = np.array([0.1, 0.1, 0.12], np.float32)  # down, to the right, in scale
_HOPELESS: Final = 0.65
_PAIRS_AT_A_TIME: Final = 1 << 11

_Signatures = npt.NDArray[np.void]
_Positions = npt.NDArray[np.int64]
_Ranks = npt.NDArray[np.uint64]
_Floats = npt.NDArray[np.floating]  # float32 in all of the search

_NO_PAIRS: Final[_Positions] = np.empty((0, 2), np.int64)


@dataclasses.dataclass(frozen=True)
class Search:
    """What was found, and at what cost.

    Attributes:
      pairs: int64 [m, 2], each ascending, in ascending order.
      equal: bool [m], the pairs of equal signatures.
      comparisons: how often two rows were compared by their lowest frequencies.
      alignments: how many of those were aligned.
    """

    pairs: _Positions
    equal: npt.NDArray[np.bool_]
    comparisons: int
    alignments: int


class _Compared(NamedTuple):
    """What was found among two blocks, see `Search`."""

    pairs: _Positions
    comparisons: int
    alignments: int


class _Table:
    """The coefficients of the rows; of a mapped file it keeps few pages in memory."""

    def __init__(self, signatures: _Signatures) -> None:
        self._signatures = signatures
        self._rows_read = 0

    def __len__(self) -> int:
        return len(self._signatures)

    def coefficients(self, rows: slice | _Positions) -> npt.NDArray[np.int8]:
        """Returns a copy, int8 [n, frequencies]."""
        chosen: npt.NDArray[np.int8] = np.array(self._signatures[rows]["coefficients"])
        self._rows_read += len(chosen)
        if self._rows_read >= _ROWS_A_MAPPING:
            self._forget_pages()
        return chosen

    def _forget_pages(self) -> None:
        """Gives the pages back, which the system would else keep as long as it has room."""
        self._rows_read = 0
        mapping = getattr(self._signatures, "base", None)
        if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


@dataclasses.dataclass(frozen=True)
class _Block:
    """Consecutive rows of an order.

    Attributes:
      positions: int64 [n], in the table.
      coefficients: [n, frequencies].
      lowest: [shifts, n, lowest], the lowest frequencies of the images shifted by `_SHIFTS`.
    """

    positions: _Positions
    coefficients: _Floats
    lowest: _Floats


def signatures(images: npt.NDArray[np.uint8]) -> _Signatures:
    """Returns the signature of each image, `SIGNATURE_DTYPE` [n].

    Args:
      images: uint8 [n, height, width, channels]; colour counts as the sum of its channels.

    Raises:
      InputError: the images have another dtype or rank.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(
            "images: expected uint8 [n, height, width, channels], received "
            f"{images.dtype} {list(images.shape)}; convert them first"
        )
    with _one_thread():
        transformed = _transform(images)
    weighted = np.ascontiguousarray(transformed[:, _Y, _X]) * (_wave_norms() * _RADII)
    norms = np.sqrt(np.square(weighted).sum(axis=1, keepdims=True))
    scaled = weighted * (_LENGTH / np.where(norms > 0, norms, 1))
    result = np.empty(len(images), SIGNATURE_DTYPE)
    result["coefficients"] = np.rint(np.clip(scaled, -127, 127))
    return result


def search(table: _Signatures, *, rows_a_pass: int = _ROWS_A_PASS) -> Search:
    """Finds the pairs of near-duplicates.

    Being a near-duplicate is not transitive, so that grouping is left to the caller.  Of equal
    signatures the first stands for all: it is paired with each of the others, and it alone with
    further images.  Of images that are equal byte for byte give the first alone, or they come out
    as such pairs.  Images of one colour have no near-duplicates.  Of an image with dozens of
    near-duplicates some are left out.

    Memory is that of a pass over the table, of the pairs, and of one byte a row.

    Args:
      table: `SIGNATURE_DTYPE` [n], in memory or a `np.memmap`.
      rows_a_pass: how many rows of an order are held at a time, a multiple of 512; the result
        does not hang on it.

    Raises:
      ValueError: `rows_a_pass` is no such multiple.
    """
    if rows_a_pass < _BLOCK or rows_a_pass % _BLOCK:
        raise ValueError(f"rows_a_pass: expected a multiple of {_BLOCK}, received {rows_a_pass}")
    with _one_thread():
        return _search(_Table(table), rows_a_pass)


def _search(table: _Table, rows_a_pass: int) -> Search:
    equal, active = _equal_signatures(table, rows_a_pass)
    similar = _NO_PAIRS
    comparisons = alignments = 0
    for order in range(_num_orders(len(table))):
        new = [similar]
        ranks_of = _ranks_by_projections(table, active, order)
        for found in _in_threads(_compare, _neighbours(table, ranks_of, rows_a_pass)):
            new.append(found.pairs)
            comparisons += found.comparisons
            alignments += found.alignments
        similar = _distinct(np.concatenate(new))
        images, partners = np.unique(similar, return_counts=True)
        active[images[partners >= _MOST_PARTNERS]] = False
    pairs = _distinct(np.concatenate([equal, similar]))
    # What is not the first of its signature is in no other pair.
    return Search(pairs, np.isin(pairs[:, 1], equal[:, 1]), comparisons, alignments)


def _in_threads(
    function: Callable[[_Block, _Block], _Compared], pairs: Iterator[tuple[_Block, _Block]]
) -> Iterator[_Compared]:
    """Yields the results in the order of the pairs, computed some ahead on all cores.

    NumPy lets go of the interpreter's lock in most of the work.
    """
    num_threads = joblib.cpu_count()
    with ThreadPoolExecutor(num_threads) as pool:
        pending: collections.deque[Future[_Compared]] = collections.deque()
        for before, block in pairs:
            pending.append(pool.submit(function, before, block))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _compare(before: _Block, block: _Block) -> _Compared:
    candidates = _candidates(before, block)
    return _Compared(
        pairs=_verified(before, block, candidates),
        comparisons=len(before.positions) * len(block.positions),
        alignments=len(candidates),
    )


def _one_thread() -> AbstractContextManager[Any]:
    """Keeps BLAS to one thread.

    The products are small, and where other processes use the cores as well, the threads of one
    wait for each other many times longer than they work.
    """
    return _thread_pools().limit(limits=1, user_api="blas")


@functools.cache
def _thread_pools() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def _num_orders(num_rows: int) -> int:
    """Returns one order more for each doubling, since neighbours then share a bit more.

    A table of up to two blocks is compared completely in one order.
    """
    return max(1, math.ceil(math.log2(max(num_rows, 1) / _BLOCK)))


# Signatures.


def _transform(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Returns the lowest frequencies, exact integers, [n, waves, waves]."""
    count, height, width, channels = images.shape
    lines = images.reshape(-1, width * channels).astype(np.float64)
    half = lines @ np.repeat(_transformation(width).T, channels, axis=0)
    return _transformation(height) @ half.reshape(count, height, _NUM_WAVES)


@functools.cache
def _transformation(size: int) -> npt.NDArray[np.float64]:
    """Returns the matrix [waves, size] that takes a line of pixels to its lowest frequencies.

    The pixels are averaged over a grid, by area, and the cosines rounded: all in integers, which
    float64 holds exactly for images of up to a thousand pixels a side.
    """
    edges = np.arange(_GRID + 1) * size
    pixels = np.arange(size) * _GRID
    overlaps = np.minimum(edges[1:, None], pixels + _GRID) - np.maximum(edges[:-1, None], pixels)
    waves = np.cos(np.pi / _GRID * np.arange(_NUM_WAVES)[:, None] * (np.arange(_GRID) + 0.5))
    matrix: npt.NDArray[np.float64] = np.rint(256 * waves) @ np.maximum(overlaps, 0)
    return matrix


def _wave_norms() -> npt.NDArray[np.float64]:
    """Returns what makes the cosines of `_FREQUENCIES` equally long."""
    return np.sqrt(np.where(_Y > 0, 2.0, 1.0) * np.where(_X > 0, 2.0, 1.0))


# Orders: all rows sorted by a key, some at a time.


def _sorted_positions(
    ranks_of: Callable[[int, int], _Ranks], num_rows: int, rows_a_pass: int
) -> Iterator[_Positions]:
    """Yields the positions of the rows that `ranks_of` a range returns, by ascending rank.

    Each pass over the rows takes the next `rows_a_pass` of them.
    """
    mask = np.uint64((1 << _position_bits(num_rows)) - 1)
    lowest = 0
    while lowest < 1 << 64:
        chosen = _lowest_ranks(ranks_of, num_rows, np.uint64(lowest), rows_a_pass)
        if not len(chosen):
            return
        yield (chosen & mask).astype(np.int64)
        lowest = int(chosen[-1]) + 1


def _lowest_ranks(
    ranks_of: Callable[[int, int], _Ranks], num_rows: int, lowest: np.uint64, count: int
) -> _Ranks:
    """Returns the first `count` ranks that are not below `lowest`, ascending."""
    held: list[_Ranks] = [np.empty(0, np.uint64)]
    num_held = 0
    highest = np.uint64(2**64 - 1)
    for start in range(0, num_rows, _ROWS_A_READ):
        ranks = ranks_of(start, min(start + _ROWS_A_READ, num_rows))
        held.append(ranks[(ranks >= lowest) & (ranks <= highest)])
        num_held += len(held[-1])
        if num_held >= 2 * count:
            held = [np.partition(np.concatenate(held), count - 1)[:count]]
            num_held, highest = count, held[0].max()
    return np.sort(np.concatenate(held))[:count]


def _position_bits(num_rows: int) -> int:
    return max(num_rows - 1, 1).bit_length()


def _ranks(keys: npt.NDArray[np.uint64], positions: _Positions, num_rows: int) -> _Ranks:
    """Returns numbers of the keys' upper bits, as many as there is room for, and the positions."""
    shift = np.uint64(_position_bits(num_rows))
    ranks: _Ranks = (keys >> shift << shift) | positions.astype(np.uint64)
    return ranks


def _equal_signatures(table: _Table, rows_a_pass: int) -> tuple[_Positions, npt.NDArray[np.bool_]]:
    """Returns the pairs of equal signatures, and which rows are to be searched.

    Each pair is of the first row that has the signature and of a later one.  Searched are those
    first rows, but for images of one colour.
    """
    num_rows = len(table)
    random = np.random.default_rng(0).bytes(8 * len(_FREQUENCIES))
    factors = np.frombuffer(random, "<u8").astype(np.uint64)

    def ranks_of(start: int, stop: int) -> _Ranks:
        values = table.coefficients(slice(start, stop)).astype(np.uint64)
        return _ranks(values @ factors, np.arange(start, stop), num_rows)

    active = np.zeros(num_rows, np.bool_)
    pairs = [_NO_PAIRS]
    last_first = np.empty(0, np.int64)  # of the signature that the rows before ended with
    for run in _sorted_positions(ranks_of, num_rows, rows_a_pass):
        for rows in np.split(run, range(_ROWS_A_READ, len(run), _ROWS_A_READ)):
            positions = np.concatenate([last_first, rows])
            values = table.coefficients(positions)
            starts = np.append(True, (values[1:] != values[:-1]).any(axis=1))
            firsts = positions[np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))]
            coloured = values.any(axis=1)
            active[positions] = starts & coloured
            pairs.append(np.stack([firsts, positions], axis=1)[~starts & coloured])
            last_first = firsts[-1:]
    return np.concatenate(pairs), active


def _ranks_by_projections(
    table: _Table, active: npt.NDArray[np.bool_], order: int
) -> Callable[[int, int], _Ranks]:
    """Returns the ranks of the active rows by on which sides of random planes they lie.

    Each plane has as many images of a sample on the one side as on the other.
    """
    rng = np.random.default_rng(order)
    planes = rng.integers(-127, 128, (_NUM_LOWEST, 8 * _KEY_BYTES)).astype(np.float32)

    def projections(rows: slice | _Positions) -> _Floats:
        return _lowest(table.coefficients(rows), _SHIFTS[:1])[0] @ planes

    medians = np.median(projections(_sample(len(table))), axis=0) if len(table) else 0

    def ranks_of(start: int, stop: int) -> _Ranks:
        positions = start + np.flatnonzero(active[start:stop])
        sides = np.zeros((len(positions), 8), np.uint8)
        sides[:, :_KEY_BYTES] = np.packbits(projections(positions) > medians, axis=1)
        return _ranks(sides.view(">u8")[:, 0].astype(np.uint64), positions, len(table))

    return ranks_of


def _sample(num_rows: int) -> _Positions:
    return np.arange(min(_SAMPLE, num_rows)) * num_rows // min(_SAMPLE, num_rows)


# Neighbours in an order, and which of them are worth a closer look.


def _neighbours(
    table: _Table, ranks_of: Callable[[int, int], _Ranks], rows_a_pass: int
) -> Iterator[tuple[_Block, _Block]]:
    """Yields each block of an order with itself, and each with the one before."""
    before = None
    for run in _sorted_positions(ranks_of, len(table), rows_a_pass):
        for positions in np.split(run, range(_BLOCK, len(run), _BLOCK)):
            coefficients = table.coefficients(positions)
            lowest = _lowest(coefficients, _SHIFTS)
            block = _Block(positions, coefficients.astype(np.float32), lowest)
            yield block, block
            if before is not None:
                yield before, block
            before = block


def _lowest(coefficients: npt.NDArray[np.int8], shifts: Sequence[tuple[float, float]]) -> _Floats:
    """Returns vectors of integers of one length, [shifts, n, lowest]; see `_Block`."""
    matrices = np.stack([_shift_matrix(down, right) for down, right in shifts])
    values = (coefficients.astype(np.float32) @ matrices).astype(np.float64)
    norms = np.sqrt(np.square(values).sum(axis=2, keepdims=True))
    return np.rint(values * (_LOWEST_LENGTH / np.maximum(norms, 1))).astype(np.float32)


@functools.cache
def _shift_matrix(down: float, right: float) -> _Floats:
    """Returns the matrix [frequencies, lowest] that shifts an image, in integers.

    It takes weighted coefficients to unweighted ones.
    """
    grid = (np.arange(2 * _GRID) + 0.5) / (2 * _GRID)
    shifted = _waves_at(grid + down, grid + right).reshape(len(_FREQUENCIES), -1)
    lowest = _waves_at(grid, grid).reshape(len(_FREQUENCIES), -1)[:_NUM_LOWEST]
    products = shifted @ lowest.T / len(grid) ** 2
    matrix: _Floats = np.rint(256 * products / _RADII[:, None]).astype(np.float32)
    return matrix


def _waves_at(y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the cosines of `_FREQUENCIES` at the points of a grid, [frequencies, y, x]."""
    down, across = np.cos(np.pi * _Y[:, None] * y), np.cos(np.pi * _X[:, None] * x)
    waves: npt.NDArray[np.float64] = down[:, :, None] * across[:, None, :]
    return waves * _wave_norms()[:, None, None]


def _candidates(before: _Block, block: _Block) -> _Positions:
    """Returns which rows of two blocks are similar at the lowest frequencies, int64 [m, 2].

    If the blocks are one, each two rows come once.  A row of `block` comes with the most similar
    ones of `before` alone, so that a crowd of similar images costs no more than others.
    """
    plain = before.lowest[0].T
    similarity = functools.reduce(np.maximum, (shifted @ plain for shifted in block.lowest))
    if before is block:
        similarity = np.tril(np.maximum(similarity, similarity.T), -1)
    similar = similarity >= _LEAST_LOWEST_CORRELATION * _LOWEST_LENGTH**2
    crowded = np.flatnonzero(similar.sum(axis=1) > _MOST_CANDIDATES)
    if len(crowded):
        best = np.argpartition(similarity[crowded], -_MOST_CANDIDATES, axis=1)
        similar[crowded] = False
        similar[crowded[:, None], best[:, -_MOST_CANDIDATES:]] = True
    return np.argwhere(similar)[:, ::-1]


# The alignment.


def _verified(before: _Block, block: _Block, candidates: _Positions) -> _Positions:
    """Returns the table's positions of the candidates that are near-duplicates."""
    found = [_NO_PAIRS]
    for start in range(0, len(candidates), _PAIRS_AT_A_TIME):
        chosen = candidates[start : start + _PAIRS_AT_A_TIME]
        first, second = before.coefficients[chosen[:, 0]], block.coefficients[chosen[:, 1]]
        near = chosen[_aligned_correlation(first, second) >= _LEAST_CORRELATION]
        positions = [before.positions[near[:, 0]], block.positions[near[:, 1]]]
        found.append(np.stack(positions, axis=1))
    return np.concatenate(found)


def _aligned_correlation(first: _Floats, second: _Floats) -> _Floats:
    """Returns how much images correlate when aligned, [n], from coefficients [n, frequencies].

    Gauss-Newton steps move both, each by half of the motion.  Those for which even the next step
    promises little keep what they have reached.
    """
    waves = np.stack([_as_waves(first), _as_waves(second)])
    best = np.full(len(first), -1, np.float32)
    motion = np.zeros((1, 3), np.float32)  # none of any, which is computed once for all
    hopeful = np.arange(len(first))
    for _ in range(_STEPS):
        one, other = _render(waves[0], motion / 2), _render(waves[1], -motion / 2)
        difference = one[0] - other[0]
        best[hopeful] = np.maximum(best[hopeful], 1 - np.square(difference).sum(axis=1) / 2)
        slopes = _motion_slopes((one[1] + other[1]) / 2, (one[2] + other[2]) / 2)
        gram = slopes @ slopes.transpose(0, 2, 1) + 1e-3 * np.eye(3, dtype=np.float32)
        projected = slopes @ difference[:, :, None]
        step = np.linalg.solve(gram, projected)
        explained = (projected * step).sum(axis=(1, 2))
        promise = 1 - (np.square(difference).sum(axis=1) - explained) / 2
        kept = promise >= _HOPELESS
        motion = np.clip(motion - step[:, :, 0], -_MOST_MOTION, _MOST_MOTION)[kept]
        hopeful, waves = hopeful[kept], waves[:, kept]
    return best


def _as_waves(coefficients: _Floats) -> _Floats:
    """Returns the amplitudes of the cosines, [n, waves, waves]."""
    waves = np.zeros((len(coefficients), _NUM_WAVES, _NUM_WAVES), np.float32)
    waves[:, _Y, _X] = coefficients * _wave_norms()
    return waves


def _render(waves: _Floats, motion: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Returns images at `_POINTS` and their slopes down and to the right, each [n, points].

    Images have mean 0 and length 1.

    Args:
      waves: [n, waves, waves].
      motion: [n or 1, 3], by how much the points are moved: down, to the right, apart.
    """
    offsets = (_POINTS - 0.5) * (1 + motion[:, 2:])
    down, down_slope = _cosines(0.5 + offsets + motion[:, :1])
    right, right_slope = (
        wave.transpose(0, 2, 1) for wave in _cosines(0.5 + offsets + motion[:, 1:2])
    )
    rows = waves @ right
    image, image_down = (_flatten(wave @ rows) for wave in (down, down_slope))
    image_right = _flatten(down @ (waves @ right_slope))
    image = image - image.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(image).sum(axis=1, keepdims=True)) + 1e-6
    return image / norms, image_down / norms, image_right / norms


def _cosines(points: _Floats) -> tuple[_Floats, _Floats]:
    """Returns the waves at points [n, p] and their slopes, each [n, p, waves]."""
    frequencies = np.pi * np.arange(_NUM_WAVES, dtype=np.float32)
    angles = points[:, :, None] * frequencies
    return np.cos(angles), -frequencies * np.sin(angles)


def _flatten(images: _Floats) -> _Floats:
    return images.reshape(len(images), len(_POINTS) ** 2)


def _motion_slopes(down: _Floats, right: _Floats) -> _Floats:
    """Returns how images change with the three kinds of motion, [n, 3, points]."""
    y, x = np.repeat(_POINTS - 0.5, len(_POINTS)), np.tile(_POINTS - 0.5, len(_POINTS))
    slopes = np.stack([down, right, down * y + right * x], axis=1)
    centred: _Floats = slopes - slopes.mean(axis=2, keepdims=True)
    return centred


# Pairs.


def _distinct(pairs: _Positions) -> _Positions:
    """Returns the pairs, each ascending, once and in ascending order."""
    ascending: _Positions = np.unique(np.sort(pairs, axis=1), axis=0)
    return ascending
