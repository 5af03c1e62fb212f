"""Videos for the tests: a photograph that slides through the picture, in every kind of file."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from skimage import data

from fer_tfdata.images import Pixels

RATE = 30


def sliding_photograph(
    num_frames: int, *, height: int = 120, width: int = 160, faces: bool = True
) -> Iterator[Pixels]:
    """Yields frames in which the astronaut, or a plain wall, moves a pixel a frame."""
    photograph = cv2.resize(data.astronaut(), (height, height), interpolation=cv2.INTER_AREA)
    for number in range(num_frames):
        frame = np.full((height, width, 3), 120, np.uint8)
        left = number % (width - height)
        if faces:
            frame[:, left : left + height] = photograph
        yield frame


def write_video(
    path: Path,
    frames: Iterable[Pixels],
    times: Iterable[Fraction] | None = None,
    *,
    codec: str = "libx264",
    rotation: int = 0,
    aspect_ratio: Fraction | None = None,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes frames at their times in seconds, by default 30 a second."""
    base = Fraction(1, 90_000)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.codec_context.time_base = base if times is not None else Fraction(1, RATE)
        stream.codec_context.options = {"g": "10"} | (
            {"preset": "ultrafast", "crf": "12"} if codec == "libx264" else {}
        )
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = aspect_ratio
        tone = container.add_stream("aac", rate=48_000) if sound else None
        stamps = None if times is None else iter(times)
        for number, pixels in enumerate(frames):
            if not number:
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if stamps is None:
                frame.pts, frame.time_base = number, Fraction(1, RATE)
            else:
                frame.pts, frame.time_base = round(next(stamps) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            _write_silence(container, tone, seconds=1)
    return path


def _write_silence(container: Any, stream: Any, *, seconds: int) -> None:
    samples = np.zeros((1, 48_000 * seconds), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48_000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def read_video(path: Path) -> tuple[list[Pixels], list[float]]:
    """Returns the frames and time stamps of a video, as PyAV alone reads them."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames]
