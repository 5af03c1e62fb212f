import contextlib
import csv
import functools
import io
import itertools
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from playwright.sync_api import Page, expect
from tensorboard.plugins.projector import ProjectorConfig

from fer_tfdata import callbacks, evaluation, monitoring, training
from fer_tfdata.evaluation import Predictions
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.models import BUILDERS
from fer_tfdata.train_config import TrainConfig
from tests.browser import chromium
from tests.tensorboard_server import served, tensorboard, wait_for

_EPOCHS = 2
_STEPS = 4  # an epoch
# What TensorBoard calls the directories of the run, below the one that it serves.
_TRAIN, _VALIDATION, _CHOSEN = (
    f"first/tensorboard/{name}" for name in ("train", "validation", "chosen")
)
_PICTURES = {
    ("batch", _TRAIN),
    ("confusion_matrix", _CHOSEN),
    ("confusion_matrix", _VALIDATION),
    ("worst_mistakes", _CHOSEN),
}


@pytest.fixture(scope="module")
def run(demo_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The event files of a run of two epochs that was stopped after the first and continued."""
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    config = TrainConfig(
        data_dir=str(demo_data_dir),
        model="residual_small",
        epochs=_EPOCHS,
        batch_size=35,
        learning_rate=0.01,
        precision="float32",
    )
    steps = itertools.count(1)
    with pytest.raises(callbacks.StoppedError):
        training.train(
            config, run_dir, profile_steps=(2, 3), stop_asked=lambda: next(steps) >= _STEPS
        )
    training.train(config, run_dir, resume=True)
    return run_dir / "tensorboard"


def events(directory: Path) -> Iterator[Any]:
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield tf.compat.v1.Event.FromString(record)


def summaries(directory: Path) -> dict[str, dict[int, np.ndarray]]:
    """What stands in a directory's event files, by tag and step."""
    found: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for event in events(directory):
        for value in event.summary.value:
            assert event.step not in found[value.tag]
            found[value.tag][event.step] = tf.make_ndarray(value.tensor)
    return found


def made_up(count: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(len(EXPRESSIONS), 0.5), count)
    labels = random.integers(0, len(EXPRESSIONS), count)
    return predictions_of_distinct_images(probabilities, labels, first_row=1000)


def predictions_of_distinct_images(probabilities, labels, *, first_row: int = 0) -> Predictions:
    rows = np.arange(len(labels)) + first_row
    return Predictions(probabilities, labels, rows, rows.astype(np.uint64))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Predictions, np.ndarray]:
    """The results of more examples than the projector takes; each image has its gray."""
    log_dir = tmp_path_factory.mktemp("many")
    predictions = made_up(2500)
    places = np.arange(2500)
    grays = (places % 251).astype(np.uint8)
    images = np.tile(grays[:, None, None, None], (1, 8, 8, 1))
    images[:, 0, 0, 0] = places // 251
    embeddings = np.random.default_rng(1).normal(size=(2500, 5)).astype(np.float32)

    def embed(shown: np.ndarray) -> np.ndarray:
        return embeddings[251 * shown[:, 0, 0, 0].astype(int) + shown[:, 3, 3, 0]]

    monitoring.write_results(log_dir, predictions, images.__getitem__, embed, EXPRESSIONS)
    return log_dir / "chosen", predictions, grays


@pytest.mark.parametrize("absent", [None, 1])
def test_f1_is_that_of_the_metrics(absent) -> None:
    predictions = made_up(300)
    if absent is not None:
        predictions.labels[predictions.labels == absent] = 0
    metrics = evaluation.compute_metrics(predictions)
    scores, macro = monitoring.f1_scores(np.array(metrics["confusion_matrix"]))
    expected = sklearn.metrics.f1_score(
        predictions.labels,
        predictions.probabilities.argmax(axis=1),
        labels=range(len(EXPRESSIONS)),
        average=None,
        zero_division=0,
    )
    np.testing.assert_allclose(scores, expected)
    assert macro == pytest.approx(metrics["macro_f1"])


def test_f1_of_what_is_neither_there_nor_answered_is_zero() -> None:
    scores, macro = monitoring.f1_scores(np.diag([3, 0, 2]))
    np.testing.assert_array_equal(scores, [1, 0, 1])
    assert macro == 1


def test_labels_are_told_in_words() -> None:
    assert monitoring.label_captions(np.array([3, 0]), EXPRESSIONS) == ["happy", "angry"]
    shares = np.zeros((5, 7), np.float32)
    shares[0, 6] = 1
    shares[1, [3, 4]] = 0.7, 0.3
    shares[2] = 0.1 / 7
    shares[2, 2] += 0.9  # smoothed
    shares[3, [0, 1]] = 0.97, 0.03
    shares[4, [0, 1, 2]] = 0.2, 0.3, 0.5
    assert monitoring.label_captions(shares, EXPRESSIONS) == [
        "neutral",
        "happy .7 / sad .3",
        "fear .9",
        "angry",
        "fear .5 / disgust .3",
    ]


def test_without_mistakes_there_is_no_picture_of_them(tmp_path) -> None:
    labels = np.arange(7)
    predictions = predictions_of_distinct_images(np.eye(7), labels)
    images, embeddings = np.zeros((7, 8, 8, 3), np.uint8), np.eye(7, dtype="f4")
    monitoring.write_results(
        tmp_path, predictions, images.__getitem__, lambda _: embeddings, EXPRESSIONS
    )
    tags = summaries(tmp_path / "chosen")
    assert "worst_mistakes" not in tags
    assert tags["val_accuracy"][0] == 1


def test_figures_of_learned_images_rank_no_run(tmp_path) -> None:
    predictions = made_up(10)
    images, embeddings = np.zeros((10, 8, 8, 1), np.uint8), np.eye(10, dtype="f4")
    monitoring.write_results(
        tmp_path,
        predictions,
        images.__getitem__,
        lambda shown: embeddings[: len(shown)],
        EXPRESSIONS,
        trained_on=True,
    )
    tags = summaries(tmp_path / "chosen")
    assert "confusion_matrix" in tags
    assert tags.keys().isdisjoint({"val_accuracy", "macro_f1"})


def test_the_curves_are_sklearn_s(many) -> None:
    directory, predictions, _ = many
    tags = summaries(directory)
    for label, name in enumerate(EXPRESSIONS):
        *_, precision, recall = tags[f"{name}/pr_curves"][0]
        true = predictions.labels == label
        for place in (0, 20, 101, 150):
            answered = predictions.probabilities[:, label] >= place / 200
            np.testing.assert_allclose(
                [precision[place], recall[place]],
                [
                    sklearn.metrics.precision_score(true, answered),
                    sklearn.metrics.recall_score(true, answered),
                ],
                rtol=1e-6,
            )


def test_the_projector_s_files_are_of_the_same_examples(many) -> None:
    directory, predictions, grays = many
    config = text_format.Parse(
        (directory / "projector_config.pbtxt").read_text(), ProjectorConfig()
    )
    (info,) = config.embeddings
    assert info.tensor_name == "validation, 2000 of 2500 examples"
    with (directory / info.metadata_path).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    vectors = np.loadtxt(directory / info.tensor_path, delimiter="\t")
    assert vectors.shape == (2000, 5)
    assert len({row["row"] for row in rows}) == len(rows) == 2000

    all_vectors = np.random.default_rng(1).normal(size=(2500, 5))
    with Image.open(directory / info.sprite.image_path) as sprite:
        assert sprite.size == (45 * 8, 45 * 8)
        tiles = np.asarray(sprite.convert("L"))
    assert list(info.sprite.single_image_dim) == [8, 8]
    for number in (0, 44, 45, 1234, 1999):
        row = rows[number]
        place = int(row["row"]) - 1000
        np.testing.assert_allclose(vectors[number], all_vectors[place], rtol=1e-5)
        across, down = number % 45, number // 45
        assert tiles[8 * down + 3, 8 * across + 3] == grays[place]
        assert row["truth"] == EXPRESSIONS[predictions.labels[place]]
        probabilities = predictions.probabilities[place]
        assert row["answer"] == EXPRESSIONS[probabilities.argmax()]
        assert (row["right"] == "right") == (row["truth"] == row["answer"])
        assert float(row["probability"]) == pytest.approx(probabilities.max(), abs=1e-3)


def test_results_replace_those_that_stood_there(tmp_path) -> None:
    images, embeddings = np.zeros((10, 100, 100, 3), np.uint8), np.zeros((10, 2), np.float32)
    for seed in (0, 1):
        predictions = made_up(10, seed)
        monitoring.write_results(
            tmp_path, predictions, images.__getitem__, lambda _: embeddings, EXPRESSIONS
        )
    accuracy = evaluation.compute_metrics(predictions)["accuracy"]
    written = summaries(tmp_path / "chosen")["val_accuracy"]
    assert written[0] == pytest.approx(accuracy)
    assert [path.name for path in tmp_path.iterdir()] == ["chosen"]
    with Image.open(tmp_path / "chosen" / "sprite.png") as sprite:
        assert sprite.size == (4 * 64, 4 * 64)  # of large images


@pytest.mark.parametrize("name", ["seed_cnn", "mini_xception", "residual_small", "vgg"])
def test_embeddings_are_what_the_logits_are_made_of(name) -> None:
    model = BUILDERS[name](image_size=16)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    features = monitoring.embeddings(model, images)
    assert features.dtype == np.float32
    weights = model.get_layer("logits").get_weights()
    made = features @ weights[0] + weights[1] if weights else features
    np.testing.assert_allclose(made, model.predict_on_batch(images), atol=1e-4)


def test_a_continued_run_goes_on_at_its_step(run) -> None:
    train, validation = summaries(run / "train"), summaries(run / "validation")
    for tags, names in (
        (train, ["epoch_loss", "epoch_accuracy", "batch"]),
        (train, ["epoch_learning_rate", "epoch_images_per_second", "epoch_input_wait"]),
        (validation, ["epoch_loss", "epoch_accuracy", "macro_f1", "confusion_matrix"]),
        (validation, [f"f1/{expression}" for expression in EXPRESSIONS]),
    ):
        for name in names:
            assert sorted(tags[name]) == list(range(_EPOCHS)), name
    assert all(speed > 0 for speed in train["epoch_images_per_second"].values())


def test_the_graph_has_every_layer_with_its_inputs(run) -> None:
    graphs = [event.graph_def for event in events(run / "train") if event.graph_def]
    graph = tf.compat.v1.GraphDef.FromString(graphs[0])
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(graph.node) == len(BUILDERS["residual_small"]().layers)
    assert all(name in nodes for node in graph.node for name in node.input)
    assert sum(not node.input for node in graph.node) == 1
    assert list(nodes["stage1/block1/add"].input) == ["stage1/block1/conv2/bn", "stem/relu"]
    assert nodes["logits"].op == "Dense"


def test_what_was_profiled_stands_beside_the_scalars(run) -> None:
    assert list((run / "train" / "plugins" / "profile").glob("*/*.xplane.pb"))


def steps_served(address: str, plugin: str, run_name: str, tag: str, **query: Any) -> list[int]:
    try:
        points = served(address, plugin, run=run_name, tag=tag, **query)
    except urllib.error.HTTPError:
        return []
    return [point["step"] if isinstance(point, dict) else point[1] for point in points]


def wait_until_read(address: str) -> None:
    """Waits for what was written last in each directory: TensorBoard reads in the background."""
    ask, steps = functools.partial(served, address), functools.partial(steps_served, address)
    wait_for(lambda: "surprise/pr_curves" in ask("pr_curves/tags").get(_CHOSEN, ()))
    wait_for(lambda: steps("scalars/scalars", _TRAIN, "epoch_learning_rate") == [0, 1])
    wait_for(lambda: steps("images/images", _VALIDATION, "confusion_matrix", sample=0) == [0, 1])


def test_tensorboard_serves_it_all(run, tmp_path) -> None:
    with tensorboard(run.parent.parent, tmp_path / "log") as address:
        ask, steps = functools.partial(served, address), functools.partial(steps_served, address)
        wait_until_read(address)
        sessions = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_SUCCESS"]}
        wait_for(lambda: ask("hparams/session_groups", sessions).get("sessionGroups"))

        scalars = ask("scalars/tags")
        assert {f"f1/{name}" for name in EXPRESSIONS} < set(scalars[_VALIDATION])
        assert {"epoch_loss", "epoch_input_wait", "epoch_images_per_second"} < set(scalars[_TRAIN])
        assert steps("scalars/scalars", _VALIDATION, "f1/happy") == [0, 1]

        pictures = {(tag, name) for name, tags in ask("images/tags").items() for tag in tags}
        assert pictures == _PICTURES
        for tag, run_name in pictures:
            *_, last = ask("images/images", run=run_name, tag=tag, sample=0)
            picture = ask(f"images/individualImage?{last['query']}&")
            with Image.open(io.BytesIO(picture)) as image:
                assert min(image.size) > 200

        curves = [
            ask("pr_curves/pr_curves", run=_CHOSEN, tag=f"{name}/pr_curves")[_CHOSEN][0]
            for name in EXPRESSIONS
        ]
        assert all(len(curve["precision"]) == len(curve["recall"]) for curve in curves)
        # Thresholds that no image reaches are left out; some expression has at least a seventh.
        assert max(len(curve["precision"]) for curve in curves) > 200 / 7

        assert ask("graphs/info")[_TRAIN]["run_graph"]
        assert b"stage1/block1/conv1" in ask("graphs/graph", run=_TRAIN, conceptual="false")

        assert ask("projector/runs") == [_CHOSEN]
        (tensor,) = ask("projector/info", run=_CHOSEN)["embeddings"]
        place = {"run": _CHOSEN, "name": tensor["tensorName"]}
        assert tensor["tensorShape"] == [35, 64]
        assert len(ask("projector/tensor", **place)) == 35 * 64 * 4
        assert ask("projector/metadata", **place).count(b"\n") == 36
        assert ask("projector/sprite_image", **place).startswith(b"\x89PNG")

        (profiled,) = ask("profile/runs")
        assert profiled.startswith(f"{_TRAIN}/")
        (host,) = ask("profile/hosts", run=profiled, tag="framework_op_stats")
        place = {"run": profiled, "host": host["hostname"]}
        assert "overview_page" in ask("profile/run_tools", run=profiled)
        assert "Conv2D" in json.dumps(ask("profile/data", tag="framework_op_stats", **place))

        experiment = ask("hparams/experiment", {"experimentName": ""})
        types = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
        assert {
            "model": "DATA_TYPE_STRING",
            "learning_rate": "DATA_TYPE_FLOAT64",
            "epochs": "DATA_TYPE_FLOAT64",
            "flip": "DATA_TYPE_BOOL",
        }.items() <= types.items()
        (group,) = ask("hparams/session_groups", sessions)["sessionGroups"]
        assert group["hparams"]["learning_rate"] == 0.01
        values = {
            (value["name"]["group"], value["name"]["tag"]): value["value"]
            for value in group["metricValues"]
        }
        assert set(values) == {
            ("chosen", "val_accuracy"),
            ("chosen", "macro_f1"),
            ("validation", "epoch_accuracy"),
        }
        metrics = json.loads((run.parent / "metrics.json").read_text())
        assert values["chosen", "val_accuracy"] == pytest.approx(metrics["accuracy"])


@contextlib.contextmanager
def page_of(address: str) -> Iterator[Page]:
    """Gives an empty page; at the end, checks that it met no fault and asked nobody else."""
    faults: list[str] = []
    requests: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        yield page
    own = (f"{address}/", "data:", "blob:")
    assert [url for url in requests if not url.startswith(own)] == faults == []


# The tag, the run and the width of each picture.
_LOADED = """loaders => loaders.map(loader => {
  const picture = loader.shadowRoot.querySelector('img');
  return [loader.tag, loader.run, picture ? picture.naturalWidth : 0];
})"""
# Of how many runs a chart has the curves; those of one run, smoothed and not, have its colour.
_CURVES = """paths => {
  const drawn = paths.filter(path => path.getAttribute('d')?.includes('L'));
  return new Set(drawn.map(path => path.getAttribute('stroke'))).size;
}"""


@pytest.mark.slow
def test_tensorboard_shows_pictures_and_curves(run, tmp_path) -> None:
    with tensorboard(run.parent.parent, tmp_path / "log") as address:
        wait_until_read(address)
        with page_of(address) as page:
            page.goto(f"{address}/#images")
            pictures = page.locator("tf-image-dashboard tf-image-loader")

            def loaded() -> set[tuple[str, str]]:
                found = pictures.evaluate_all(_LOADED)
                return {(tag, name) for tag, name, width in found if width > 200}

            first = {picture for picture in _PICTURES if picture[0] != "worst_mistakes"}
            wait_for(lambda: loaded() == first)
            page.locator("tf-image-dashboard .heading", has_text="worst_mistakes").click()
            wait_for(lambda: loaded() == _PICTURES)

            page.get_by_role("tab", name="Scalars").click()
            headings = page.locator("tf-scalar-dashboard .heading")
            for name in ("epoch_accuracy", "epoch_loss", "f1", "macro_f1"):
                expect(headings.filter(has_text=re.compile(rf"^\s*{name}\b"))).to_have_count(1)
            accuracy = page.locator("tf-scalar-card", has_text="epoch_accuracy")
            wait_for(lambda: accuracy.locator("path.line").evaluate_all(_CURVES) == 2)
