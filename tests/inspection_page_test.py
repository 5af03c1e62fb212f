import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import sync_playwright

from fer_tfdata import conversion, inspection, inspection_page, markup
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS, NO_LABEL
from fer_tfdata.sources import BadRow, ImageFolder, RawBatch
from tests.batch_source import BatchSource, random_batch
from tests.html_page import HOSTILE, Page
from tests.inspection_test import faces_with_faults, near_leak_after_dropping, votes

SECTIONS = [
    "expressions",
    "ferplus",
    "samples",
    "means",
    "pixels",
    "duplicates",
    "near-duplicates",
    "conflicts",
    "flat",
    "no-face",
    "dropped",
    "skipped",
]


def page_of(data_dir: Path) -> Page:
    page = Page(inspection_page.render(inspection.inspect(data_dir)))
    check(page)
    return page


def check(page: Page) -> None:
    """What holds for every page."""
    assert [section["id"] for section in page.attributes("section")] == SECTIONS
    anchors = {str(link["href"]) for link in page.attributes("a")}
    assert {f"#{section}" for section in SECTIONS} == anchors
    page.check()
    assert all(image.dtype == np.uint8 for image in page.images())


# The page as a whole.


def test_the_page_of_the_demo_data(demo_data_dir: Path) -> None:
    page = page_of(demo_data_dir)
    header = page.texts["header"]
    assert header.startswith("Inspection of fer2013.csv")
    assert "210 of 48x48 pixels, gray" in header
    for name in EXPRESSIONS:
        assert re.search(rf"{name} 20 14\.3% 5 14\.3% 5 14\.3%", page.texts["expressions"])
    assert "train: every expression is as frequent as any other." in page.texts["expressions"]
    assert page.texts["ferplus"].endswith("No votes were given when the data were converted.")
    assert len(page.images()) >= 7 * 20 + 7
    for section in ("conflicts", "dropped", "skipped"):
        assert page.texts[section].endswith("None.")


def test_the_page_loads_nothing_from_elsewhere(demo_data_dir: Path) -> None:
    text = inspection_page.render(inspection.inspect(demo_data_dir))
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))


def test_the_page_is_the_same_at_every_run(demo_data_dir: Path) -> None:
    pages = {inspection_page.render(inspection.inspect(demo_data_dir)) for _ in range(2)}
    assert len(pages) == 1


def test_the_faults_of_a_data_set(tmp_path: Path) -> None:
    conversion.convert(BatchSource([faces_with_faults()]), tmp_path, on_bad_row="skip")
    page = page_of(tmp_path)
    for line in (
        "1 image of validation (33.3%) also in train",
        "5 images that repeat with other labels",
        "1 image of one colour",
        "1 image of nearly one colour",
        "2 images of train that repeat an earlier one of it",
        "2 images of test without a label",
        "1 row of no use",
    ):
        assert line in page.texts["header"]
    assert (
        "1 group (3 images). row 0 train angry row 3 train angry row 8 validation fear"
        in (page.texts["duplicates"])
    )
    assert "angry or fear row 0 train angry" in page.texts["conflicts"]
    assert "disgust or surprise row 1 train disgust row 4" in page.texts["conflicts"]
    assert "Of one colour 1 image. row 2 train fear" in page.texts["flat"]
    assert "Of nearly one colour 1 image. row 5 train neutral" in page.texts["flat"]
    assert "12 faces.csv, line 14 too few pixels" in page.texts["skipped"]
    assert "no label 0 0.0% 0 0.0% 2 66.7%" in page.texts["expressions"]
    assert "validation: there is no image of" in page.texts["expressions"]


def test_the_images_are_those_of_their_captions(tmp_path: Path) -> None:
    source = faces_with_faults()
    conversion.convert(BatchSource([source]), tmp_path, on_bad_row="skip")
    page = page_of(tmp_path)
    rows = [re.match(r"row (\d+),", str(image["alt"])) for image in page.attributes("img")]
    compared = 0
    for match, image in zip(rows, page.images(), strict=True):
        if match:
            np.testing.assert_array_equal(image, source.images[int(match[1]), ..., 0])
            compared += 1
    assert compared == 6 + 3 + 2 + 3 + 2 + 1 + 1 + 2 * near_pairs(tmp_path)


def near_pairs(data_dir: Path) -> int:
    return inspection.inspect(data_dir).contents.faults.near_duplicates.groups


def test_dropped_rows_are_named_and_their_kept_twin_is_shown(tmp_path: Path) -> None:
    source = BatchSource([faces_with_faults()])
    conversion.convert(source, tmp_path, on_bad_row="skip", drop=("leaks", "flat"))
    page = page_of(tmp_path)
    assert "0 leaks row 8 validation fear 2 flat none 3 leaks row 8" in page.texts["dropped"]
    assert "row 8 validation fear dropped: rows 0, 3" in page.texts["duplicates"]
    assert "Of one colour 1 image, 0 still in the data. dropped: row 2" in page.texts["flat"]
    glance = page.texts["header"].partition("At a glance ")[2]
    assert glance.startswith("4 rows dropped from train images that repeat with other labels: ")
    for line in (
        "images that repeat with other labels: 5 in the source, 3 still in the data",
        "images of one colour: 1 in the source, 0 still in the data",
        "images of train that repeat an earlier one of it: 2 in the source, 1 still in the data",
    ):
        assert line in glance
    assert "also in train" not in glance
    assert "1 group (3 images, 1 still in the data)." in page.texts["duplicates"]


def test_near_duplicates_of_what_was_written_are_told(tmp_path: Path) -> None:
    page = page_of(near_leak_after_dropping(tmp_path))
    assert "1 image of validation nearly equal to one of train" in page.texts["header"]
    assert "nearly so 1 shards" in page.texts["header"]
    assert "row 1 validation" in page.texts["near-duplicates"]


def test_votes_have_their_counts_and_disagreements(tmp_path: Path) -> None:
    splits = ["train", "train", "test"]
    batch = random_batch(splits)
    batch.labels[:] = EXPRESSIONS.index("happy")
    on_happiness, on_contempt, no_face = [0, 10] + [0] * 8, [0] * 7 + [10, 0, 0], [0] * 9 + [10]
    given_votes = votes([on_happiness, on_contempt, no_face], splits)
    conversion.convert(BatchSource([batch]), tmp_path, votes=given_votes)
    page = page_of(tmp_path)
    text = page.texts["ferplus"]
    assert "happy 1 50.0% 0 0.0%" in text
    assert "contempt 1 50.0% 0 0.0% no majority 0 0.0% 1 100.0% all 2 1" in text
    assert "same on 1 of the 2 images that have both (50.0%)." in text
    assert "They differ on 1 image. row 1" in text
    assert "other rows" not in text
    assert text.endswith("row 1 happy → contempt")
    assert "1 image. row 2 test happy" in page.texts["no-face"]
    assert f"{Path(__file__).with_name('inspection_test.py').name}, " in page.texts["header"]


def test_votes_that_hardly_agree_with_the_labels_are_doubted(tmp_path: Path) -> None:
    splits = ["train"] * 10
    batch = random_batch(splits)
    batch.labels[:] = EXPRESSIONS.index("happy")
    on_neutral = [10] + [0] * 9
    conversion.convert(BatchSource([batch]), tmp_path, votes=votes([on_neutral] * 10, splits))
    page = page_of(tmp_path)
    assert "agree with 0.0% of the labels: they may belong to other rows" in page.texts["header"]
    assert "the votes may belong to other rows" in page.texts["ferplus"]


# Data sets of every form.


@pytest.mark.parametrize("splits", [["train"], ["test", "test"], ["train", "validation"]])
def test_splits_may_be_missing_or_of_one_image(tmp_path: Path, splits: list[str]) -> None:
    conversion.convert(BatchSource([random_batch(splits)]), tmp_path)
    page = page_of(tmp_path)
    assert f"Random images of {splits[0]}" in page.texts["samples"]
    assert all(split in page.texts["pixels"] for split in splits)
    assert "also in train" not in page.texts["header"].split("At a glance")[1]


def test_a_data_set_without_a_fault_says_so(tmp_path: Path) -> None:
    conversion.convert(BatchSource([random_batch(["train", "test"])]), tmp_path)
    assert "At a glance Nothing wrong was found" in page_of(tmp_path).texts["header"]


def test_no_image_may_have_a_label(tmp_path: Path) -> None:
    batch = random_batch(["train", "train", "test"])
    batch.labels[:] = NO_LABEL
    conversion.convert(BatchSource([batch]), tmp_path)
    page = page_of(tmp_path)
    assert "train: no image has a label." in page.texts["expressions"]
    assert "no label row 0 row 1" in page.texts["samples"]
    assert "mean face: no label" in {image["alt"] for image in page.attributes("img")}


def test_eight_expressions_in_colour_of_another_size(tmp_path: Path) -> None:
    image_shape = (120, 120, 3)
    batch = random_batch(["train"] * 8 + ["test"], image_shape=image_shape)
    batch.labels[:] = [*range(8), 7]
    source = BatchSource([batch], image_shape=image_shape, expressions=EIGHT_EXPRESSIONS)
    conversion.convert(source, tmp_path)
    page = page_of(tmp_path)
    assert "9 of 120x120 pixels, in colour" in page.texts["header"]
    assert "contempt 1 12.5% 1 100.0%" in page.texts["expressions"]
    assert "; red, green, blue" in page.texts["pixels"]
    assert {image.shape for image in page.images()} == {(96, 96, 3)}


def test_a_folder_of_images_is_named_with_its_files(tmp_path: Path) -> None:
    faces = tmp_path / "faces" / "happy"
    faces.mkdir(parents=True)
    for index, image in enumerate(random_batch(["train"] * 3).images):
        Image.fromarray(image[..., 0]).save(faces / f"{index}.png")
    conversion.convert(ImageFolder(tmp_path / "faces"), tmp_path / "data")
    header = page_of(tmp_path / "data").texts["header"]
    assert "Inspection of faces Source faces, 3 files, " in header


def test_of_many_images_some_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    flat = np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(48, 1).repeat(48, 2)
    batch = RawBatch(flat, np.arange(100) % 7, ["train"] * 100, np.arange(100))
    bad_rows = [BadRow(100 + index, "faces.csv", "no pixels") for index in range(70)]
    batch = dataclasses.replace(batch, bad_rows=bad_rows)
    conversion.convert(BatchSource([batch]), tmp_path, on_bad_row="skip")
    page = page_of(tmp_path)
    assert "100 images; 48 of them are shown." in page.texts["flat"]
    assert page.texts["flat"].count("row ") == 48
    assert "70 rows; 50 of them are shown." in page.texts["skipped"]
    assert page.texts["skipped"].count("no pixels") == 50


def test_of_a_large_group_some_images_are_shown(tmp_path: Path) -> None:
    batch = random_batch(["train"] * 50)
    batch.images[:] = batch.images[0]
    conversion.convert(BatchSource([batch]), tmp_path)
    text = page_of(tmp_path).texts["duplicates"]
    assert "1 group (50 images)." in text
    assert text.endswith("and 38 rows more")


# Escaping.


def test_what_is_hostile_is_shown_as_it_is(tmp_path: Path) -> None:
    batch = dataclasses.replace(
        random_batch(["train"]), bad_rows=[BadRow(1, f"{HOSTILE}.csv", f"{HOSTILE} is no number")]
    )
    conversion.convert(BatchSource([batch]), tmp_path, on_bad_row="skip")
    inspected = inspection.inspect(tmp_path)
    hostile = inspection.SourceFile(HOSTILE, 10, f"{HOSTILE}0")
    contents = dataclasses.replace(inspected.contents, sources=[hostile])
    page = Page(inspection_page.render(dataclasses.replace(inspected, contents=contents)))
    check(page)
    assert page.texts["header"].count(HOSTILE) == 4  # title, heading, name, checksum
    assert f"1 {HOSTILE}.csv {HOSTILE} is no number" in page.texts["skipped"]


@given(st.text(), st.text())
def test_every_text_and_attribute_survives_its_escaping(content: str, value: str) -> None:
    element = markup.element("p", content, markup.element("b", content), title=f"x{value}")
    pieces: list[str] = []
    attributes: list[tuple[str, str | None]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, found: list[tuple[str, str | None]]) -> None:
            attributes.extend(found)
            pieces.append(tag)

        def handle_data(self, data: str) -> None:
            pieces.append(data)

    reader = Reader()
    reader.feed(element)
    reader.close()
    assert "".join(pieces) == f"p{content}b{content}"
    assert attributes == [("title", f"x{value}")]


def test_a_name_that_is_no_utf_8_is_shown_as_far_as_it_is() -> None:
    page = markup.element("p", "b\udcffd.png")
    assert page.encode() == b"<p>b?d.png</p>"


# In a browser.


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_without_a_network_shows_all_of_it(tmp_path: Path, scheme: str) -> None:
    batch = faces_with_faults()
    bad = BadRow(12, f"{'a_long_path/' * 20}0.png", "expected an image, received a text")
    on_happiness, no_face = [0, 10] + [0] * 8, [0] * 9 + [10]
    conversion.convert(
        BatchSource([dataclasses.replace(batch, bad_rows=[bad])]),
        tmp_path / "data",
        votes=votes([on_happiness] * 11 + [no_face] + [[0] * 10], [*batch.splits, "train"]),
        on_bad_row="skip",
        drop=["flat", "leaks"],
    )
    (tmp_path / "index.html").write_text(
        inspection_page.render(inspection.inspect(tmp_path / "data")), encoding="utf-8"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [path for name in names if (path := shutil.which(name))]
    assert found, f"expected one of {', '.join(names)} on the PATH, found none; install Chromium"
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        page = browser.new_context(
            viewport={"width": 360, "height": 740}, color_scheme=scheme, offline=True
        ).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("section").count() == len(SECTIONS)
        undrawn = "[...document.images].filter(image => !image.naturalWidth).length"
        assert page.evaluate("document.images.length") > 10
        page.wait_for_function(f"{undrawn} == 0")
        browser.close()
    assert [url for url in requests if not url.startswith("data:")] == [
        (tmp_path / "index.html").as_uri()
    ]
