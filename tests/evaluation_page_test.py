import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from fer_tfdata import conversion, evaluation_page, records
from fer_tfdata.evaluation_report import Report, make_report
from tests.batch_source import BatchSource, random_batch
from tests.evaluation_report_test import classifier
from tests.html_page import HOSTILE, Page

SECTIONS = ["expressions", "confusion", "calibration", "selective", "ferplus", "mistakes"]
_MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def validation(voted_data_dir: Path) -> records.Split:
    return records.open_split(voted_data_dir, "validation")


@pytest.fixture(scope="module")
def of_one(validation) -> Report:
    return make_report({"runs/first": classifier(0)}, validation, trained_on={})


@pytest.fixture(scope="module")
def of_three(validation) -> Report:
    models = {"runs/first": classifier(0), "runs/second": classifier(1)}
    return make_report(models, validation, tta="flip", with_ensemble=True)


def page_of(report: Report) -> Page:
    text = evaluation_page.render(report)
    assert len(text.encode()) < _MOST_BYTES
    page = Page(text)
    sections = SECTIONS if len(report.models) == 1 else ["comparison", *SECTIONS]
    assert [section["id"] for section in page.attributes("section")] == sections
    assert [str(link["href"]) for link in page.attributes("a")] == [f"#{s}" for s in sections]
    page.check()
    return page


def test_the_page_shows_the_figures_of_the_metrics(of_one) -> None:
    page = page_of(of_one)
    metrics = of_one.models[0].metrics
    header = page.texts["header"]
    assert header.startswith("Evaluation of first on validation")
    assert "first: runs/first" in header
    low, high = metrics["bootstrap"]["ci95"]["accuracy"]
    expected = f"accuracy {metrics['accuracy']:.1%} {100 * low:.1f} to {100 * high:.1f}"
    assert expected in header
    assert f"ECE {metrics['ece']:.3f}" in header
    for name, of in metrics["per_expression"].items():
        figures = f"{name} {of['precision']:.3f} {of['recall']:.3f} {of['f1']:.3f} {of['support']}"
        assert figures in page.texts["expressions"]
    row = metrics["confusion_matrix"][0]
    cells = " ".join(f"{count / sum(row):.0%} {count}" for count in row)
    assert f"angry {cells} disgust" in page.texts["confusion"]
    scaling = metrics["temperature_scaling"]
    assert f"with temperature {scaling['temperature']:.3f} (folds: " in page.texts["calibration"]
    assert "dealt into 5 folds" in page.texts["calibration"]
    assert f"AURC {metrics['aurc']:.3f}" in page.texts["selective"]
    agreement = metrics["ferplus_agreement"]
    assert f"the model agrees {agreement['agreement']:.1%}" in page.texts["ferplus"]
    wrong = round(35 * (1 - metrics["accuracy"]))
    assert f"{wrong} mistakes; 24 of them are shown." in page.texts["mistakes"]


def test_the_figures_without_leaked_images_stand_in_a_table(of_one, validation) -> None:
    page = page_of(of_one)
    assert "Images 35 of validation Labels" in page.texts["header"]
    assert "also in train" not in page.texts["header"]
    assert "nearly equal" not in page.texts["header"]
    rows = [mistake.row for mistake in of_one.models[0].mistakes[:5]]
    leaking = dataclasses.replace(
        validation, leaked_rows=frozenset(rows[:3]), near_leaked_rows=frozenset(rows[2:])
    )
    report = make_report({"m": classifier(0)}, leaking)
    header = page_of(report).texts["header"]
    assert "Images 35 of validation, 3 of them also in train Labels" in header
    _, tables = header.split("Without the 3 images also in train")
    caption = "Without those and the 2 images nearly equal to one in train"
    metrics = report.models[0].metrics
    for part, table in zip(("leak_free", "near_leak_free"), tables.split(caption), strict=True):
        low, high = metrics["bootstrap"]["ci95"][part]["accuracy"]
        accuracy = metrics[part]["accuracy"]
        assert f"accuracy {accuracy:.1%} {100 * low:.1f} to {100 * high:.1f} macro F1" in table
        for name, title in {"macro_f1": "macro F1", "nll": "NLL nats", "ece": "ECE"}.items():
            low, high = metrics["bootstrap"]["ci95"][part][name]
            assert f"{title} {metrics[part][name]:.3f} {low:.3f} to {high:.3f}" in table
        scaling = metrics["temperature_scaling"][part]
        assert f"ECE with temperature {scaling['ece']:.3f}" in table


def test_near_leaks_alone_stand_in_a_table_of_their_own(validation) -> None:
    row = int(records.load_split(validation, ["row"])["row"][0])
    leaking = dataclasses.replace(validation, near_leaked_rows=frozenset({row}))
    header = page_of(make_report({"m": classifier(0)}, leaking)).texts["header"]
    assert "Without the 1 image nearly equal to one in train" in header
    assert "also in train" not in header


def test_a_split_of_leaked_images_alone_has_no_such_table(validation) -> None:
    rows = records.load_split(validation, ["row"])["row"]
    leaking = dataclasses.replace(validation, leaked_rows=frozenset(rows.tolist()))
    page = page_of(make_report({"m": classifier(0)}, leaking))
    assert "35 of validation, 35 of them also in train" in page.texts["header"]
    assert "Without" not in page.texts["header"]


def test_several_models_stand_side_by_side_and_are_compared(of_three) -> None:
    page = page_of(of_three)
    header = page.texts["header"]
    assert header.startswith("Evaluation of 3 models on validation")
    assert "ensemble: the mean of all 2" in header
    assert "over each image and its mirror image" in header
    assert "first second ensemble accuracy" in header
    for pair in of_three.comparisons:
        points = f"{100 * pair.accuracy_difference:+.1f}"
        assert (points if pair.accuracy_difference else "0.0") in page.texts["comparison"]
    assert "first minus second" in page.texts["comparison"]
    assert page.texts["comparison"].count(" Holm ") == 3
    assert "Of 3 pairs" in page.texts["comparison"]


def test_a_difference_that_rounds_to_zero_has_no_sign(of_three) -> None:
    pair = dataclasses.replace(
        of_three.comparisons[0],
        accuracy_difference=-0.0004,
        accuracy_difference_ci95=[-0.012, 0.0004],
    )
    two = dataclasses.replace(of_three, models=of_three.models[:2], comparisons=[pair])
    assert "second 0.0 -1.2 to 0.0 " in page_of(two).texts["comparison"]


def test_two_models_need_no_correction(of_three) -> None:
    two = dataclasses.replace(
        of_three, models=of_three.models[:2], comparisons=of_three.comparisons[:1]
    )
    assert "Holm" not in page_of(two).texts["comparison"]


def test_the_mistakes_are_shown_with_their_images(of_one) -> None:
    page = page_of(of_one)
    mistakes = of_one.models[0].mistakes
    images = page.images()
    assert len(images) == len(mistakes)
    for mistake, image, attributes in zip(mistakes, images, page.attributes("img"), strict=True):
        np.testing.assert_array_equal(image, mistake.image[..., 0])
        assert str(attributes["alt"]).startswith(f"row {mistake.row}, ")
    first = mistakes[0]
    assert f"row {first.row} label: " in page.texts["mistakes"]
    assert f"{first.probabilities.max():.0%}" in page.texts["mistakes"]


def test_the_charts_are_drawn_of_the_figures(of_one) -> None:
    page = page_of(of_one)
    charts = page.attributes("svg")
    assert len(charts) == 3
    assert all(chart["aria-label"] for chart in charts)
    bars = [rect for rect in page.attributes("rect") if rect["class"] == "accuracy"]
    of_bins = of_one.models[0].reliability, of_one.models[0].scaled_reliability
    assert len(bars) == sum((reliability.examples > 0).sum() for reliability in of_bins)
    tallest = max(float(str(bar["height"])) for bar in bars)
    least = [np.minimum(r.confidence, r.accuracy).max() for r in of_bins]
    assert tallest == pytest.approx(190 * max(least), abs=0.01)
    assert len(page.attributes("polyline")) == 1


def test_the_page_loads_nothing_from_elsewhere_and_is_the_same_at_every_run(of_three) -> None:
    text = evaluation_page.render(of_three)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert text == evaluation_page.render(of_three)


def test_what_is_hostile_is_shown_as_it_is(of_three) -> None:
    models = [
        dataclasses.replace(model, name=f"{HOSTILE}{number}", title=f"{HOSTILE}{number}")
        for number, model in enumerate(of_three.models)
    ]
    pairs = [
        dataclasses.replace(pair, first=f"{HOSTILE}0", second=f"{HOSTILE}1")
        for pair in of_three.comparisons
    ]
    page = page_of(dataclasses.replace(of_three, models=models, comparisons=pairs))
    assert page.texts["header"].count(HOSTILE) == 2 * 3
    assert f"{HOSTILE}0 minus {HOSTILE}1" in page.texts["comparison"]


def test_a_model_that_was_trained_on_the_images_is_marked(validation) -> None:
    report = make_report(
        {"m": classifier(0)}, validation, trained_on={"m": ["train", "validation"]}
    )
    page = page_of(report)
    assert "m was trained on these images" in page.texts["header"]
    assert "the model was trained on validation" in page.texts["calibration"]
    assert "ECE with temperature none" in page.texts["header"]


def test_an_ensemble_is_marked_where_one_member_is_known_to_have_learned_the_images(
    validation,
) -> None:
    report = make_report(
        {"a": classifier(0), "b": classifier(1)},
        validation,
        with_ensemble=True,
        trained_on={"a": ["train", "validation"], "b": None},
    )
    header = page_of(report).texts["header"]
    assert "a was trained on these images" in header
    assert "b was trained on these images" not in header
    assert "ensemble was trained on these images" in header


def test_votes_on_other_images_are_warned_of_whatever_is_measured(
    validation, warnings_so_far
) -> None:
    report = make_report({"m": classifier(0)}, validation)
    assert "FER+'s majority is" not in page_of(report).texts["header"]
    split = dataclasses.replace(validation, ferplus_agreeing=3, ferplus_comparable=30)
    assert not warnings_so_far()
    report = make_report({"a": classifier(0), "b": classifier(1)}, split)
    (message,) = warnings_so_far()
    assert "the label on 3 of 30 images, no more than chance" in message
    header = page_of(report).texts["header"]
    assert "FER+'s majority is the label on 3 of 30 images of the data, no more than" in header


def test_data_without_votes_without_validation_and_of_one_image(tmp_path) -> None:
    conversion.convert(BatchSource([random_batch(["train", "test"])]), tmp_path)
    report = make_report({"m": classifier(0)}, records.open_split(tmp_path, "test"))
    page = page_of(report)
    assert "No votes were given" in page.texts["ferplus"]
    assert "no validation split with such labels" in page.texts["calibration"]
    assert "FER+ agrees" not in page.texts["header"]


def test_the_test_split_says_where_its_temperature_is_from(voted_data_dir) -> None:
    report = make_report({"m": classifier(0)}, records.open_split(voted_data_dir, "test"))
    text = page_of(report).texts["calibration"]
    assert "not also in train and equal none of those measured of test" in text
    assert "folds" not in text
