import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fer_tfdata import inputs
from fer_tfdata.errors import InputError
from tests.videos import sliding_photograph, write_video


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "more/a.JPG", "._b.png"):
        Image.new("L", (48, 48)).save(folder / name)
    write_video(folder / "clip.mp4", sliding_photograph(3, height=48, width=64))
    (folder / "notes.txt").write_text("no image, and not taken for one")
    return folder


def test_files_folders_and_patterns(album: Path) -> None:
    in_order = [album / "b.png", album / "clip.mp4", album / "more" / "a.JPG"]
    assert inputs.find_files(album) == in_order
    assert inputs.find_files(str(album)) == in_order
    assert inputs.find_files(f"{album}/**/*") == in_order
    assert inputs.find_files(f"{album}/*.mp4") == in_order[1:2]
    assert inputs.find_files(album / "notes.txt") == [album / "notes.txt"]
    bracketed = in_order[0].rename(album / "[1].png")
    assert inputs.find_files(bracketed) == [bracketed]


def test_hidden_folders_are_passed_over_unless_named(album: Path) -> None:
    (album / "more").rename(album / ".more")
    in_order = [album / "b.png", album / "clip.mp4"]
    for named in (album, f"{album}/**", f"{album}/**/*"):
        assert inputs.find_files(named) == in_order
    for named in (album / ".more", f"{album}/.more/*", f"{album}/.m*/**/*.JPG"):
        assert inputs.find_files(named) == [album / ".more" / "a.JPG"]


def test_a_hidden_file_counts_by_its_own_name_alone(album: Path) -> None:
    hidden = (album / "b.png").rename(album / ".b.png")
    assert inputs.find_files(hidden) == [hidden]
    with pytest.raises(InputError, match="received nothing there"):
        inputs.find_files(f"{album}/.b*.png")


def test_links_to_a_folder_above_give_no_file_twice(album: Path) -> None:
    in_order = inputs.find_files(album)
    for name in ("one", "two"):  # each in the other, and so on: there is no end to wait for
        (album / "more" / name).symlink_to("..")
    for named in (album, f"{album}/**", f"{album}/**/*", f"{album}/**/**/*"):
        assert inputs.find_files(named) == in_order
    assert inputs.find_files(album / "more" / "one") == [
        album / "more" / "one" / file.relative_to(album) for file in in_order
    ]


@pytest.fixture
def closed(album: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the album the working directory, and its folders `more` and `names` closed ones."""
    monkeypatch.chdir(album)  # root alone comes to it by its path
    (album / "more").chmod(0)
    (album / "names").mkdir()
    for name in ("c.mp4", "d.png"):
        (album / "names" / name).touch()
    (album / "names").chmod(0o444)
    album.chmod(0o755)
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65_534)
    yield
    if privileged:
        os.seteuid(0)
    for name in ("more", "names"):
        (album / name).chmod(0o755)


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("named", [".", "**"])
def test_what_is_closed_to_this_user_is_an_error_of_its_own(named: str) -> None:
    frames = list(inputs.read_frames(inputs.find_files(named)))
    errors = {str(frame.source): frame.error for frame in frames}
    assert list(errors) == ["b.png", "clip.mp4", "more", "names/c.mp4", "names/d.png"]
    assert (errors["b.png"], errors["clip.mp4"]) == (None, None)
    assert errors["more"] == "more: expected a folder that can be listed, received one that cannot"
    for name, kind in (("names/c.mp4", "a complete video"), ("names/d.png", "a file to read")):
        assert errors[name] == f"{name}: expected {kind}, received: Permission denied"


@pytest.mark.usefixtures("closed")
def test_a_pattern_says_what_is_closed_below_two_stars_alone() -> None:
    in_names = [Path("names", "c.mp4"), Path("names", "d.png")]
    assert inputs.find_files("*/**") == [Path("more"), *in_names]
    assert inputs.find_files("*/*/**") == in_names  # which may be folders, for all that is known
    assert inputs.find_files("*/*") == in_names


@pytest.mark.usefixtures("closed")
def test_a_file_in_a_closed_folder_is_no_match() -> None:
    with pytest.raises(InputError, match=r"^more/a.JPG: .* received: Permission denied"):
        inputs.find_files("more/a.JPG")


def test_an_empty_name_and_one_that_is_too_long_are_refused(album: Path) -> None:
    with pytest.raises(InputError, match="received an empty name"):
        inputs.find_files("")
    with pytest.raises(InputError, match="received: File name too long"):
        inputs.find_files(album / ("a" * 300))


def test_patterns_in_the_working_directory(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    everything = [Path("b.png"), Path("clip.mp4"), Path("more", "a.JPG")]
    assert inputs.find_files("**") == everything
    assert inputs.find_files("**/*") == everything
    assert inputs.find_files("*/**/*") == everything[2:]  # and not the files that * matches
    assert inputs.find_files("**/?.*") == [everything[0], everything[2]]
    assert inputs.find_files("more/**") == everything[2:]
    Path("more", "[1]").mkdir()
    everything[0].rename(Path("more", "[1]", "b.png"))
    assert inputs.find_files("m*/**/*.png") == [Path("more", "[1]", "b.png")]


@pytest.mark.parametrize("name", ["empty", "nothing*.png", "missing.jpg", "*.txt"])
def test_every_input_must_match_something(album: Path, name: str) -> None:
    (album / "empty").mkdir()
    with pytest.raises(
        InputError, match=f"{name}: expected an image or video file".replace("*", ".")
    ):
        inputs.find_files(album / name)


@pytest.mark.parametrize(
    "address",
    ["https://example.org/a.jpg", "rtsp://camera/1", "http:/a.png", "file:///etc/a.png", "data:/x"],
)
def test_addresses_are_refused(address: str) -> None:
    for named in (address, Path(address)):
        with pytest.raises(InputError, match="received an address; download it first"):
            inputs.find_files(named)


def test_pictures_frames_and_errors_come_in_order(album: Path) -> None:
    (album / "c.png").write_text("no image")
    (album / "d.mkv").write_text("no video")
    frames = list(inputs.read_frames(inputs.find_files(album)))
    places = [(os.path.relpath(frame.source, album), frame.index) for frame in frames]
    assert places == [
        ("b.png", None),
        ("c.png", None),
        *(("clip.mp4", index) for index in range(3)),
        ("d.mkv", None),
        (str(Path("more", "a.JPG")), None),
    ]
    assert [frame.error is None for frame in frames] == [True, False, True, True, True, False, True]
    for frame in frames:
        assert (frame.pixels.size == 0) == (frame.error is not None)
        assert frame.moving == (frame.source.name == "clip.mp4")
    assert inputs.num_frames(inputs.find_files(album)) == 7
