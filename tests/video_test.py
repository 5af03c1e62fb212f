import os
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import measure
from fer_tfdata import video
from fer_tfdata.errors import InputError
from fer_tfdata.frames import Frame
from fer_tfdata.images import Pixels
from tests.videos import RATE, read_video, sliding_photograph, write_video


def collect(path: Path) -> tuple[list[Frame], str | None]:
    """Returns the frames that could be read, and the error that ended it."""
    frames: list[Frame] = []
    try:
        for frame in video.read_frames(path):
            frames.append(frame)  # noqa: PERF402  # those before the error count
    except InputError as error:
        return frames, str(error)
    return frames, None


def photographs(num_frames: int, height: int = 48, width: int = 64) -> list[Pixels]:
    return list(sliding_photograph(num_frames, height=height, width=width))


def error_of(a: Pixels, b: Pixels) -> float:
    return float(np.abs(a.astype(float) - b).mean())


# Reading


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".m2ts", ".webm", ".flv"])
def test_every_container_is_read_in_order(tmp_path: Path, suffix: str) -> None:
    codec = {".avi": "mjpeg", ".webm": "libvpx"}.get(suffix, "libx264")
    expected = photographs(12)
    path = write_video(tmp_path / f"clip{suffix}", expected, codec=codec)
    frames, error = collect(path)
    assert error is None
    assert [frame.index for frame in frames] == list(range(12))
    for place, frame in enumerate(frames):
        assert frame.source == path
        assert frame.pixels.dtype == np.uint8
        errors = [error_of(frame.pixels, pixels) for pixels in expected]
        assert np.argmin(errors) == place
        assert errors[place] < 15
    times = [float(frame.time) for frame in frames]
    np.testing.assert_allclose(times, np.arange(12) / RATE, atol=0.001)
    assert suffix in video.VIDEO_SUFFIXES


def test_time_stamps_are_the_files(tmp_path: Path) -> None:
    times = [Fraction(n, 1000) for n in (500, 533, 600, 1600, 1601, 4000)]
    path = write_video(tmp_path / "clip.mp4", photographs(6), times)
    frames, error = collect(path)
    assert error is None
    assert [frame.time for frame in frames] == [time - times[0] for time in times]


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([0, 1, 2, 3, 0, 5, 6], [0, 1, 2, 3, 4, 5, 6]),  # one of them is wrong
        ([0, 2, 1, 4, 3, 6, 5, 8], [0, 2, 3, 4, 5, 6, 7, 8]),  # in the order of decoding
        ([7, 8, 9, 0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]),  # three parts
        ([0, None, 2, 2, 3], [0, 1, 2, 2, 3]),
    ],
)
def test_time_goes_on_whatever_the_stamps(stamps: list[int | None], times: list[int]) -> None:
    clock = video._Clock(SimpleNamespace(time_base=Fraction(1), average_rate=Fraction(1)))
    assert [clock.time(SimpleNamespace(pts=stamp)) for stamp in stamps] == times


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".mov"])
def test_a_part_of_a_recording_is_complete(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == ".webm" else "libx264"
    times = [10 + Fraction(n, RATE) for n in range(12)]  # its time stamps go on where others ended
    path = write_video(tmp_path / f"part{suffix}", photographs(12), times, codec=codec)
    frames, error = collect(path)
    assert error is None
    np.testing.assert_allclose(
        [float(frame.time) for frame in frames], np.arange(12) / RATE, atol=0.001
    )


def test_time_goes_on_where_files_were_joined(tmp_path: Path) -> None:
    part = write_video(tmp_path / "part.mpg", photographs(30), codec="mpeg2video")
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(2 * part.read_bytes())
    frames, error = collect(joined)
    assert error is None
    steps = np.diff([float(frame.time) for frame in frames])
    assert len(steps) == 59
    np.testing.assert_allclose(steps, 1 / RATE, atol=0.001)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_frames_are_turned_as_the_camera_was(tmp_path: Path, rotation: int, turns: int) -> None:
    [stored] = photographs(1)
    path = write_video(tmp_path / "turned.mp4", [stored] * 3, rotation=rotation)
    frames, _ = collect(path)
    for frame in frames:
        assert frame.pixels.flags["C_CONTIGUOUS"]
        assert error_of(frame.pixels, np.rot90(stored, turns)) < 6


def test_pixels_are_made_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wide.mkv", photographs(2), aspect_ratio=Fraction(3, 2))
    frames, _ = collect(path)
    assert [frame.pixels.shape for frame in frames] == [(48, 96, 3)] * 2


def test_sound_is_no_obstacle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "loud.mp4", photographs(30), sound=True)
    frames, error = collect(path)
    assert (len(frames), error) == (30, None)
    only_sound = tmp_path / "sound.mp4"
    with av.open(str(path)) as source, av.open(str(only_sound), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert collect(only_sound) == (
        [],
        f"{only_sound}: expected a video, received a file without one that can be decoded",
    )


def test_a_name_may_look_like_an_address_and_need_not_be_utf_8(tmp_path: Path) -> None:
    (tmp_path / "http:").mkdir()
    path = write_video(tmp_path / "clip.mp4", photographs(2))
    for name in ("http:/clip.mp4", "concat:a|b.mp4", os.fsdecode(b"caf\xe9.mp4")):
        path = path.rename(tmp_path / name)
        assert len(collect(path)[0]) == 2


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "an empty one"),
        (b"no video\n" * 9, "Invalid data"),
        # A playlist would have FFmpeg read other files, and fetch them from the network.
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:clip.ts\n", "Invalid data"),
        (b"ffconcat version 1.0\nfile clip.mp4\n", "Invalid argument"),
    ],
    ids=["empty", "text", "hls", "concat"],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, received: str) -> None:
    write_video(tmp_path / "clip.mp4", photographs(2))
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    frames, error = collect(path)
    assert not frames
    assert error is not None
    assert error.startswith(f"{path}: expected ")
    assert received in error


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, received in (("pipe.mp4", "not a file"), ("missing.mp4", "nothing there")):
        assert received in str(collect(tmp_path / name)[1])
        assert video.num_frames(tmp_path / name) == 1


@pytest.mark.parametrize("where", ["container", "picture"])
def test_huge_frames_are_refused_before_they_are_decoded(tmp_path: Path, where: str) -> None:
    path = write_video(tmp_path / "bomb.avi", photographs(2), codec="mjpeg")
    content = bytearray(path.read_bytes())
    for found in re.finditer(b"\xff\xc0\x00\x11\x08", bytes(content)):
        content[found.end() : found.end() + 4] = struct.pack(">HH", 12_000, 12_000)
    if where == "container":
        place = content.index(b"strf") + 12
        content[place : place + 8] = struct.pack("<ii", 12_000, 12_000)
    path.write_bytes(content)
    result, memory = measure.memory_of(lambda: collect(path))
    frames, error = result
    assert not frames
    assert error is not None
    assert where == "picture" or "make the video smaller" in error
    if memory is not None and memory["earlier_peak_excluded"]:
        assert memory["risen_bytes"] < 100 << 20


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".m2ts"])
@pytest.mark.parametrize("sound", [False, True])
def test_of_a_cut_video_the_frames_before_the_cut_are_read(
    tmp_path: Path, suffix: str, sound: bool
) -> None:
    expected = photographs(60)
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write_video(tmp_path / f"clip{suffix}", expected, options=options, sound=sound)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, error = collect(path)
    assert 10 < len(frames) < 50
    for frame, pixels in zip(frames, expected, strict=False):
        assert error_of(frame.pixels, pixels) < 6
    if suffix != ".m2ts":  # which cannot be told from a recording that was stopped
        assert error is not None
        assert error.startswith(f"{path}: expected a complete video")


def test_a_video_ends_at_its_damage(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", photographs(30))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    frames, error = collect(path)
    assert 5 < len(frames) < 25
    assert error == f"{path}: expected a complete video, received a damaged one"


def test_a_recording_that_begins_between_key_frames_begins_with_the_next(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.m2ts", photographs(60))
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 3 // 192 * 192 :])
    frames, error = collect(path)
    assert error is None
    assert 30 <= len(frames) < 45
    assert frames[0].time == 0


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_damage_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "clip.mp4"
    if not path.exists():
        write_video(path, photographs(4), options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    frames, error = collect(damaged)
    assert all(frame.pixels.size for frame in frames)
    assert error is None or "\n" not in error


def test_reading_is_a_stream(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", photographs(200))
    frames = video.read_frames(path)
    assert next(frames).index == 0
    frames.close()  # type: ignore[attr-defined]


def test_the_number_of_frames_is_told_beforehand(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        path = write_video(tmp_path / f"clip{suffix}", photographs(20))
        assert video.num_frames(path) == pytest.approx(20, abs=1)
    (tmp_path / "text.mp4").write_text("no video")
    assert video.num_frames(tmp_path / "text.mp4") == 1


# Writing


def written(path: Path, frames: Iterator[tuple[Pixels, Fraction]]) -> Path:
    with path.open("wb") as file:
        writer = video.VideoWriter(file)
        for pixels, time in frames:
            writer.write(pixels, time)
        writer.close()
    return path


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (48, 63), (1, 1)])
def test_what_was_written_is_read_again(tmp_path: Path, height: int, width: int) -> None:
    times = [Fraction(n, 997) for n in (0, 30, 61, 1000, 1001)]
    frames = photographs(5, 48, 64)
    cut = [frame[:height, :width] for frame in frames]
    path = written(tmp_path / "a.mp4", zip(cut, times, strict=True))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert not container.streams.audio
    pixels, stamps = read_video(path)
    np.testing.assert_allclose(stamps, [float(time) for time in times], atol=1e-6)
    for one, other in zip(pixels, cut, strict=True):
        assert one.shape == (height + height % 2, width + width % 2, 3)
        assert error_of(one[:height, :width], other) < 6


def test_times_that_stand_still_become_later(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 10), Fraction(1, 10), Fraction(1, 20), Fraction(1)]
    path = written(tmp_path / "a.mp4", zip(photographs(5), times, strict=True))
    _, stamps = read_video(path)
    assert stamps == sorted(set(stamps))
    np.testing.assert_allclose(stamps, [0, 0.1, 0.1, 0.1, 1], atol=1e-5)


def test_frames_of_another_size_are_resized(tmp_path: Path) -> None:
    frames = [*photographs(2), *photographs(2, 96, 128)]
    path = written(tmp_path / "a.mp4", ((f, Fraction(n)) for n, f in enumerate(frames)))
    pixels, _ = read_video(path)
    assert [frame.shape for frame in pixels] == [(48, 64, 3)] * 4


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 20_000), (6, 16_384)), ((40_000, 2), (16_384, 2))]
)
def test_frames_too_large_for_the_encoder_are_shrunk(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    frame = np.full((*size, 3), 200, np.uint8)
    path = written(tmp_path / "a.mp4", iter([(frame, Fraction(0)), (frame, Fraction(1))]))
    pixels, _ = read_video(path)
    assert [one.shape for one in pixels] == [(*expected, 3)] * 2
    assert abs(pixels[0].astype(int) - 200).max() <= 4


@pytest.mark.parametrize("height", [48, 720])  # a player expects other colours of a large video
def test_colours_are_kept(tmp_path: Path, height: int) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (255, 255, 255), (0, 0, 0)]
    frames = [np.full((height, 64, 3), colour, np.uint8) for colour in colours]
    path = written(tmp_path / "a.mp4", ((f, Fraction(n)) for n, f in enumerate(frames)))
    for pixels, frame in zip(read_video(path)[0], collect(path)[0], strict=True):
        assert np.abs(frame.pixels.astype(int) - frames[frame.index or 0]).max() <= 4
        assert np.abs(pixels.astype(int) - frame.pixels).max() <= 2
