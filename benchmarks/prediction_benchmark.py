"""Measures how fast faces are predicted: videos from end to end, crops, and one face at a time.

    python -m benchmarks.prediction_benchmark
    python -m benchmarks.prediction_benchmark --video=clip.mp4 --data_dir=data --frames=0

What is measured:

  videos      frames a second from an H.264 file to an annotated one (decode, detect, classify,
              draw, encode), to the results alone, and of three of the parts by themselves (decode,
              detect, encode); beside the package fer's way to an annotated file (decode, its Haar
              cascade, its network, draw, encode as MPEG-4).
  crops       classifications a second of faces that are cut out already, one at a time and in
              batches, and the time that one takes; beside fer's network.
  long video  seconds a frame and the process's memory, thousand by thousand, over --frames frames.
  accuracy    with --data_dir: of both networks on the validation split, one view.

The video is drawn, unless --video names one: two faces that move, 1280 x 720, 30 frames a second.
What is not installed (pip install --no-deps fer, and setuptools<81, which it needs) is left out,
and said.
"""

import functools
import importlib.metadata
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from absl import flags

from benchmarks import measure
from fer_tfdata import command_line, named_models

NAME: Final = "prediction_benchmark"

_OURS: Final = "ours_annotated"
_FER: Final = "fer_annotated"
_SPEED_TARGET: Final = 3.0  # times as fast as fer, from end to end
_LATENCY_TARGET: Final = 0.005  # seconds, at the median, of one crop
_WINDOW: Final = 1_000  # frames
_SEED: Final = 1  # in whose video both detectors find two faces all the time
_FRAMES_IN_MEMORY: Final = 60  # of which the parts are measured
_PACKAGES: Final = ("av", "opencv-python-headless", "fer")

# TensorFlow, OpenCV and PyAV are imported where they are used, so that --help need not wait.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "model",
        named_models.PRETRAINED,
        named_models.MODEL_HELP,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "video", None, "A video in place of the drawn one.", flag_values=flag_values
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory that make_tfrecords wrote; without it no accuracy is measured.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "clip_frames",
        300,
        "Frames of the drawn video.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "frames",
        10_000,
        "Frames of the long video, which repeats the other one; 0 leaves it out.",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "batch_size", 256, "Crops of a large batch.", lower_bound=2, flag_values=flag_values
    )
    flags.DEFINE_integer(
        "calls",
        300,
        "How often, a repeat, one crop is classified.",
        lower_bound=1,
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=5)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints tables, the targets and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    content = measure.provenance(NAME, repeats=values.repeats)
    content["versions"] |= _versions()
    peers, skipped = _peers()
    content["skipped"] = skipped
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        video = Path(values.video) if values.video else _draw(directory, values.clip_frames)
        content["video"] = measure_videos(
            values.model, video, directory, peers, repeats=values.repeats
        )
        content["crops"] = measure_crops(
            values.model, peers, values.batch_size, values.calls, repeats=values.repeats
        )
        if values.frames:
            long = _repeat(video, directory / "long.mp4", values.frames)
            content["long_video"] = measure.in_new_process(measure_long_video, values.model, long)
        if values.data_dir:
            content["accuracy"] = measure_accuracy(values.model, Path(values.data_dir), peers)
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_videos(
    model: str, video: Path, directory: Path, peers: Any, *, repeats: int
) -> dict[str, Any]:
    """Returns frames a second of each way through a video and of parts of ours."""
    from fer_tfdata.prediction import Predictor

    predictor = Predictor.from_name(model)
    ways: dict[str, Callable[[], tuple[int, int]]] = {
        _OURS: functools.partial(_annotate, predictor, video, directory / "ours.mp4"),
        "ours_results": functools.partial(_predict, predictor, video),
        **_parts(video, directory),
    }
    if peers is not None:
        ways[_FER] = functools.partial(peers.FerVideo().annotate, video, directory / "fer.mp4")
    # Warms up, and traces the graphs.
    counts = dict(zip(("frames", "faces"), ways[_OURS](), strict=True))
    faces = {name: ways[name]()[1] for name in (_OURS, _FER) if name in ways}
    results = measure.interleaved(
        {name: functools.partial(_frames_per_second, way) for name, way in ways.items()}, repeats
    )
    return {
        "file": video.name,
        "frames": counts["frames"],
        "height_and_width": _size(video),
        "faces": faces,
        "variants": {
            name: {"frames_per_second": measure.summary(raw)} for name, raw in results.items()
        },
        **({"ours_to_fer": measure.ratios(results[_OURS], results[_FER])} if peers else {}),
        "target": _SPEED_TARGET,
    }


def measure_crops(
    model: str, peers: Any, batch_size: int, calls: int, *, repeats: int
) -> dict[str, Any]:
    """Returns crops a second, and the time of a call, of each network with one and many crops."""
    from fer_tfdata.prediction import Predictor

    classifier = named_models.load(model)
    side, _, channels = classifier.image_shape
    gray = _drawn(batch_size, side)
    networks: dict[str, tuple[Callable[[Any], Any], npt.NDArray[np.uint8]]] = {
        "ours": (Predictor(classifier).predict_faces, np.repeat(gray[..., np.newaxis], channels, 3))
    }
    if peers is not None:
        larger = _drawn(batch_size, peers.SIDE)
        networks["fer_lite"] = (peers.FerNetwork(lite=True).probabilities, larger)
        networks["fer_keras"] = (peers.FerNetwork(lite=False).probabilities, larger)
    variants = {
        f"{name}_{size}": functools.partial(
            _timed_calls, network, crops[:size], max(1, calls // size)
        )
        for name, (network, crops) in networks.items()
        for size in (1, batch_size)
    }
    for variant in variants.values():
        variant()  # traces, and lets the library choose its kernels
    results = measure.interleaved(variants, repeats)
    return {
        "batch_size": batch_size,
        "calls": calls,
        "variants": {
            name: {
                "crops_per_second": measure.summary(
                    [int(name.rpartition("_")[2]) / np.mean(seconds) for seconds in raw]
                ),
                "p50_seconds": measure.summary([float(np.percentile(s, 50)) for s in raw]),
                "p99_seconds": measure.summary([float(np.percentile(s, 99)) for s in raw]),
            }
            for name, raw in results.items()
        },
        "target": _LATENCY_TARGET,
    }


def measure_long_video(model: str, video: Path, window: int = _WINDOW) -> dict[str, Any]:
    """Returns seconds a frame and the memory of this process, a new one.

    Args:
      model: see --model.
      video: what is predicted and annotated.
      window: how many frames are measured together.
    """
    command_line.import_tensorflow_quietly()
    from fer_tfdata.prediction import Predictor

    predictor = Predictor.from_name(model)
    seconds, resident = [], []
    results = _annotated(predictor, video, video.with_name("long_annotated.mp4"))
    start = time.perf_counter()
    for number, _ in enumerate(results, 1):
        if number % window == 0:
            now = time.perf_counter()
            seconds.append((now - start) / window)
            resident.append(measure.resident_bytes())
            start = now
    return {"window": window, "seconds_per_frame": seconds, "resident_bytes": resident}


def measure_accuracy(model: str, data_dir: Path, peers: Any) -> dict[str, Any]:
    """Returns the share of right answers on the validation split, one view, of each network."""
    from fer_tfdata import records
    from fer_tfdata.faces import resized
    from fer_tfdata.prediction import Predictor

    classifier = named_models.load(model)
    columns = records.load_split(records.open_split(data_dir, "validation"))
    images, labels = columns["image"], columns["label"]
    crops = np.repeat(images, classifier.image_shape[2], axis=3)
    answers = {"ours": Predictor(classifier).predict_faces(crops).argmax(axis=1)}
    if peers is not None:
        network = peers.FerNetwork(lite=True)
        larger = np.stack([resized(image[..., 0], (peers.SIDE, peers.SIDE)) for image in images])
        answers["fer_lite"] = network.probabilities(larger).argmax(axis=1)
    return {
        "examples": len(labels),
        **{name: float(np.mean(answer == labels)) for name, answer in answers.items()},
    }


# The ways through a video.


def _annotated(predictor: Any, video: Path, copy: Path) -> Iterator[Any]:
    from fer_tfdata import copies, inputs

    predicted = predictor.predict_frames(inputs.read_frames([video]))
    return copies.write_copies(predicted, {video: copy})


def _annotate(predictor: Any, video: Path, copy: Path) -> tuple[int, int]:
    return _count(_annotated(predictor, video, copy))


def _predict(predictor: Any, video: Path) -> tuple[int, int]:
    return _count(predictor.predict_paths([video]))


def _count(results: Iterable[Any]) -> tuple[int, int]:
    numbers = [len(result.faces) for result in results]
    return len(numbers), sum(numbers)


def _parts(video: Path, directory: Path) -> dict[str, Callable[[], tuple[int, int]]]:
    """Returns parts of our way: decoding, and of frames in memory the others."""
    from fer_tfdata import copies, detectors, inputs, prediction
    from fer_tfdata.following import Follower
    from fer_tfdata.results import ImagePrediction

    detector = detectors.HaarDetector()
    frames = list(itertools.islice(inputs.read_frames([video]), _FRAMES_IN_MEMORY))
    chunks = list(prediction.in_chunks(frames))
    results = [(frame, ImagePrediction(frame.source)) for frame in frames]

    def decode() -> tuple[int, int]:
        return sum(1 for _ in inputs.read_frames([video])), 0

    def detect() -> tuple[int, int]:
        follower = Follower(detector, smallest=prediction.SMALLEST_IN_VIDEOS)
        boxes = [found for chunk in chunks for found in follower.find(chunk, live=False)]
        return len(boxes), sum(map(len, boxes))

    def encode() -> tuple[int, int]:
        return _count(copies.write_copies(results, {video: directory / "encoded.mp4"}))

    return {"decode": decode, "detect": detect, "encode": encode}


def _frames_per_second(way: Callable[[], tuple[int, int]]) -> float:
    start = time.perf_counter()
    num_frames, _ = way()
    return num_frames / (time.perf_counter() - start)


def _timed_calls(
    network: Callable[[Any], Any], crops: npt.NDArray[np.uint8], calls: int
) -> list[float]:
    """Returns the seconds of each call."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        network(crops)
        seconds.append(time.perf_counter() - start)
    return seconds


# What is predicted.


def _draw(directory: Path, num_frames: int) -> Path:
    """Writes a video of drawn faces."""
    from fer_tfdata import demo_video
    from fer_tfdata.video import VideoWriter

    path = directory / "drawn.mp4"
    with path.open("wb") as file:
        writer = VideoWriter(file)
        for pixels, seconds in demo_video.draw_frames(num_frames, seed=_SEED):
            writer.write(pixels, seconds)
        writer.close()
    return path


def _repeat(video: Path, path: Path, num_frames: int) -> Path:
    """Writes a video over and over, as it is encoded, until it has so many frames."""
    import av

    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [(p, p.pts, p.dts) for p in source.demux(stream) if p.size]
        length = stream.duration or max(pts for _, pts, _ in packets) + 1
        for number in range(num_frames):
            turn, place = divmod(number, len(packets))
            packet, pts, dts = packets[place]
            packet.stream, packet.pts, packet.dts = copy, pts + turn * length, dts + turn * length
            target.mux(packet)
    return path


def _drawn(count: int, side: int) -> npt.NDArray[np.uint8]:
    from fer_tfdata import demo_faces
    from fer_tfdata.expressions import NUM_EXPRESSIONS

    return np.stack(
        [
            demo_faces.draw_face(number % NUM_EXPRESSIONS, seed=number, size=side)
            for number in range(count)
        ]
    )


def _size(video: Path) -> list[int]:
    from fer_tfdata import inputs

    return list(next(inputs.read_frames([video])).pixels.shape[:2])


def _peers() -> tuple[Any, dict[str, str]]:
    """Returns the module of the peers, or None and why there is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of pkg_resources
            from benchmarks import prediction_peers
    except ImportError as error:
        return None, {"fer": f"not installed (pip install --no-deps fer): {error}"}
    return prediction_peers, {}


def _versions() -> dict[str, str]:
    installed = {dist.name: dist.version for dist in importlib.metadata.distributions()}
    return {name: installed[name] for name in _PACKAGES if name in installed}


# Reporting.


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    for name, reason in content["skipped"].items():
        print(f"{name} is left out: {reason}")
    _print_videos(content["video"])
    _print_crops(content["crops"])
    if "long_video" in content:
        _print_long_video(content["long_video"])
    if "accuracy" in content:
        shares = {name: share for name, share in content["accuracy"].items() if name != "examples"}
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        print(f"\naccuracy on {content['accuracy']['examples']} validation images: {told}")
    print()


def _print_videos(content: Mapping[str, Any]) -> None:
    height, width = content["height_and_width"]
    faces = ", ".join(f"{number} by {name}" for name, number in content["faces"].items())
    print(f"{content['file']}: {content['frames']} frames of {width} x {height}; faces: {faces}")
    measure.print_table(
        ["way", "frames/s [min, max]"],
        [
            [name, measure.spread(variant["frames_per_second"], digits=1)]
            for name, variant in content["variants"].items()
        ],
    )
    if "ours_to_fer" in content:
        met = "MET" if content["ours_to_fer"]["median"] >= content["target"] else "MISSED"
        print(f"{_OURS} against {_FER}: {measure.times_as_fast(content['ours_to_fer'])}")
        print(f"target, {content['target']:g} times as fast: {met}")


def _print_crops(content: Mapping[str, Any]) -> None:
    print("\nfaces that are cut out already; NETWORK_CROPS-A-CALL")
    measure.print_table(
        ["network", "crops/s [min, max]", "p50, ms", "p99, ms"],
        [
            [
                name,
                measure.spread(variant["crops_per_second"]),
                measure.spread(variant["p50_seconds"], digits=2, factor=1e3),
                measure.spread(variant["p99_seconds"], digits=2, factor=1e3),
            ]
            for name, variant in content["variants"].items()
        ],
    )
    met = content["variants"]["ours_1"]["p50_seconds"]["median"] <= content["target"]
    print(f"target, one crop in {content['target'] * 1e3:g} ms: {'MET' if met else 'MISSED'}")


def _print_long_video(content: Mapping[str, Any]) -> None:
    print(f"\nlong video, {content['window']} frames a row")
    measure.print_table(
        ["up to frame", "ms a frame", "memory, MB"],
        [
            [
                f"{number * content['window']:,}",
                f"{seconds * 1e3:.1f}",
                "" if resident is None else f"{resident / 1e6:,.0f}",
            ]
            for number, (seconds, resident) in enumerate(
                zip(content["seconds_per_frame"], content["resident_bytes"], strict=True), 1
            )
        ],
    )


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
