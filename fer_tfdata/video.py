"""Reads video files as a stream of pictures the way a player shows them, and writes H.264."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Final

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from fer_tfdata import images
from fer_tfdata.errors import InputError
from fer_tfdata.frames import Frame
from fer_tfdata.images import Pixels

VIDEO_SUFFIXES: Final = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".ogv", ".webm", ".wmv"}
)

# Containers alone: FFmpeg would follow a playlist to other files and to the network, whatever the
# file's name says.
_OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": "asf,avi,flv,matroska,mov,mpeg,mpegts,mxf,ogg",
    "max_pixels": str(images.MAX_PIXELS),
}
_BUFFER: Final = 1 << 20  # bytes that are read at once
# Containers whose header says how long they are; of others FFmpeg estimates it.
_MATROSKA: Final = "matroska,webm"
_TELLING_LENGTH: Final = (_MATROSKA, "mov,mp4,m4a,3gp,3g2,mj2")
_MISSING_SECONDS: Final = 0.5  # the header's length may be rounded
_USUAL_RATE: Final = Fraction(25)  # frames a second, where nothing tells
# Time stamps that are further back, two in a row, begin a count of their own: that of the second of
# two files that were joined.  Less, or one alone, is what some encoders get wrong.
_JUMP_BACK: Final = Fraction(1, 2)

# Fine enough for any video's time stamps; what FFmpeg itself counts in.
_TIME_BASE: Final = Fraction(1, 1_000_000)
# Pixels, and an even number; x264 takes no larger pictures.
_MAX_SIDE: Final = 16_384
# x264's: a quarter of its default preset's time for a slightly larger file; hardly a visible loss.
_ENCODING: Final = {"preset": "veryfast", "crf": "20"}


def read_frames(path: Path) -> Iterator[Frame]:
    """Yields the frames of a video file's first video stream, decoding as they are asked for.

    They are turned as the camera was, and their pixels made square.  What comes before the first
    key frame cannot be decoded and is left out.

    Raises:
      InputError: the file is no video (`VIDEO_SUFFIXES` are what is read), is damaged or cut
        short, in which case the frames up to there were yielded, or has frames of more than
        `images.MAX_PIXELS` pixels.
    """
    with _errors_of(path), _opened(path) as (container, stream):
        viewer, clock = _Viewer(stream), _Clock(stream)
        for index, decoded in enumerate(_decoded(container, stream)):
            picture = viewer.picture(decoded)
            yield Frame(source=path, pixels=picture, index=index, time=clock.time(decoded))
        if clock.start is None:
            raise InputError("expected a video, received one without any frame")


def num_frames(path: Path) -> int:
    """Returns how many frames a video file's header says, or its length lets expect; 1 at least."""
    try:
        with _errors_of(path), _opened(path) as (container, stream):
            seconds = (container.duration or 0) / av.time_base
            return max(1, stream.frames or round(seconds * (stream.average_rate or 0)))
    except InputError:
        return 1


class VideoWriter:
    """Writes an H.264 video without sound, until it is closed."""

    def __init__(self, file: BinaryIO) -> None:
        """Begins a file.

        Args:
          file: opened for writing, and closed by whoever opened it.
        """
        self._container = av.open(file, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", options=_ENCODING)
        self._stream.pix_fmt = "yuv420p"  # what every player shows
        context = self._stream.codec_context
        context.time_base = _TIME_BASE
        context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.MPEG
        self._last = -1

    def write(self, pixels: Pixels, time: Fraction) -> None:
        """Appends a frame.

        Args:
          pixels: RGB uint8 `[height, width, 3]`; the first one's size is the video's, to which
            others are resized.  H.264 halves the resolution of colours, so that an odd side gets
            one row or column more; what has a side of more than 16,384 pixels is shrunk.
          time: seconds, which are kept to the microsecond, after the frame before.
        """
        longer = max(pixels.shape[:2])
        if longer > _MAX_SIDE:
            height, width = (max(1, side * _MAX_SIDE // longer) for side in pixels.shape[:2])
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        missing = [(0, side % 2) for side in pixels.shape[:2]]
        if any(after for _, after in missing):
            pixels = np.pad(pixels, [*missing, (0, 0)], mode="edge")
        if self._last < 0:
            self._stream.height, self._stream.width = pixels.shape[:2]
        planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420)  # five times as fast as FFmpeg's
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        self._last = max(self._last + 1, round(time / _TIME_BASE))
        frame.pts, frame.time_base = self._last, _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Completes the file."""
        self._container.mux(self._stream.encode())
        self._container.close()


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Makes of what goes wrong inside an `InputError` that names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file makes a decoder raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: expected a complete video, received: {reason}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Gives a container and its video stream, of which nothing has been decoded."""
    if not path.is_file():
        received = "something that is not a file" if path.exists() else "nothing there"
        raise InputError(f"expected a video file, received {received}")
    if not path.stat().st_size:
        raise InputError("expected a video file, received an empty one")
    # Opened here, since FFmpeg would look for a protocol in the name, and take only UTF-8.
    with (
        path.open("rb") as file,
        av.open(
            file, options=_OPTIONS, metadata_errors="replace", buffer_size=_BUFFER
        ) as container,
    ):
        # A sound file's picture of its cover is no video.
        streams = [
            stream
            for stream in container.streams.video
            if av.stream.Disposition.attached_pic not in stream.disposition
        ]
        if not streams or streams[0].codec_context is None:
            raise InputError("expected a video, received a file without one that can be decoded")
        stream = streams[0]
        _check_size(stream.width, stream.height)
        stream.codec_context.options = {"max_pixels": str(images.MAX_PIXELS)}
        stream.thread_type = "AUTO"
        yield container, stream


def _check_size(width: int, height: int) -> None:
    # FFmpeg calls a size 0 that it refuses.
    if not 0 < width * height <= images.MAX_PIXELS:
        raise InputError(
            f"expected frames of 1 to {images.MAX_PIXELS} pixels, received larger or damaged ones;"
            " make the video smaller"
        )


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yields the frames; where the file is damaged, those before it, and then an error."""
    for frame in _received(container, stream):
        if frame.is_corrupt:
            raise InputError("expected a complete video, received a damaged one")
        yield frame


def _received(container: Any, stream: Any) -> Iterator[Any]:
    """Yields what the decoder makes of the packets before a damaged one, and then an error."""
    started, end = False, Fraction(0)
    try:
        # The packets of the other streams as well: the file is cut wherever one of them is.
        for packet in container.demux():
            if packet.is_corrupt:
                raise InputError("expected a complete video, received a damaged one")
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream is stream:
                started = started or packet.is_keyframe
                yield from packet.decode() if started else ()
    except (av.FFmpegError, InputError):
        with contextlib.suppress(av.FFmpegError):
            yield from stream.decode(None)  # the frames that the decoder held back
        raise
    _check_end(container, end)


def _check_end(container: Any, end: Fraction) -> None:
    """Checks the time stamp of the end against the header: some files end without an error."""
    if container.format.name not in _TELLING_LENGTH or container.duration is None:
        return
    length = Fraction(container.duration, av.time_base)
    # Matroska's length may begin at 0, and not where the first time stamp is.
    start = 0 if container.format.name == _MATROSKA else container.start_time or 0
    seen = end - Fraction(start, av.time_base)
    if length - seen > _MISSING_SECONDS:
        raise InputError(
            f"expected a complete video of {float(length):.1f} s, received one that ends after "
            f"{float(seen):.1f} s"
        )


class _Clock:
    """Tells when frames are shown."""

    def __init__(self, stream: Any) -> None:
        self._time_base = stream.time_base  # the frames that a decoder held back have none
        self._interval = 1 / (stream.average_rate or _USUAL_RATE)
        self._last: Fraction | None = None
        self._shift = Fraction(0)  # of the time stamps since they last began anew
        self._jumped = False
        self.start: Fraction | None = None

    def time(self, decoded: Any) -> Fraction:
        """Returns the seconds since the first frame, which never decrease."""
        following = Fraction(0) if self._last is None else self._last + self._interval
        stamp = following if decoded.pts is None else decoded.pts * self._time_base + self._shift
        if self._last is None:
            self._last = self.start = stamp
        elif self._last - stamp > _JUMP_BACK:
            if self._jumped:  # a second time: it was no stray one
                self._shift += following - stamp
            self._jumped = not self._jumped
            self._last = following
        else:
            self._jumped = False
            self._last = max(self._last, stamp)
        return self._last - (self.start or 0)


class _Viewer:
    """Makes of decoded frames the pictures that a player shows."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._reformatter = VideoReformatter()

    def picture(self, decoded: Any) -> Pixels:
        """Returns RGB uint8 `[height, width, 3]`."""
        # A pixel of some old formats is wider than high.
        width = max(1, round(decoded.width * (self._stream.sample_aspect_ratio or 1)))
        _check_size(width, decoded.height)
        shown = self._reformatter.reformat(decoded, width, decoded.height, "rgb24")
        turns = round(decoded.rotation / 90) % 4  # counterclockwise
        return np.ascontiguousarray(np.rot90(shown.to_ndarray(), turns))
