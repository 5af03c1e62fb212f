"""What a run leaves for TensorBoard: how it trains, what it sees, and where it errs."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api_pb2 as hparams_pb2
from tensorboard.plugins.hparams import summary as hparams_summary
from tensorboard.plugins.pr_curve import summary as pr_curve_summary

from fer_tfdata import atomic, figures
from fer_tfdata.dataset_options import untuned
from fer_tfdata.evaluation import Predictions, compute_metrics, worst_mistakes

_log = logging.getLogger(__name__)

HParam = bool | int | float | str
_ImagesAt = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint8]]
_Embed = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

_BATCH_IMAGES: Final = 32
_MISTAKES: Final = 16
_PROJECTED: Final = 2000
_SPRITE_SIDE: Final = 64  # 45 to a row; browsers take textures of up to 8192 pixels
_EMBEDDING_BATCH: Final = 256
# The run, as TensorBoard calls a directory, of what is known of the chosen weights alone.
_CHOSEN: Final = "chosen"
_METRICS: Final = (  # the HParams tab's: run, tag, heading
    (_CHOSEN, "val_accuracy", "val_accuracy"),
    (_CHOSEN, "macro_f1", "val_macro_f1"),
    ("validation", "epoch_accuracy", "val_accuracy, last epoch"),
)
_HPARAM_TYPES: Final = {
    bool: hparams_pb2.DATA_TYPE_BOOL,
    int: hparams_pb2.DATA_TYPE_FLOAT64,  # there is no other number
    float: hparams_pb2.DATA_TYPE_FLOAT64,
    str: hparams_pb2.DATA_TYPE_STRING,
}


class Monitor(keras.callbacks.TensorBoard):
    """Keras's callback for TensorBoard, with more to see.

    It writes every number in an epoch's logs, so it follows the callbacks that add to the logs.  A
    run that is continued in another process goes on at its epoch's step.  It is one callback, since
    TensorBoard may overlook one of two files that grow in one directory at the same time: what is
    added here goes through Keras's writers.

    Args:
      log_dir: where the event files go, or stand already; a directory in the run's.
      hparams: what tells the run from others, as the HParams tab lists it.
      expressions: what the labels are ids of, in order.
      confusion: called at the end of each epoch; returns int64 [expressions, expressions], rows:
        truth, of the validation that just ran.
      first_batch: called once, before the first epoch; returns images as the network sees them,
        uint8 [n, height, width, 1 or 3], and their labels, ids [n] or shares [n, expressions].
      profile_steps: the first and the last step of this process to profile, counted from 1.
    """

    def __init__(
        self,
        log_dir: Path,
        *,
        hparams: Mapping[str, HParam],
        expressions: Sequence[str],
        confusion: Callable[[], npt.NDArray[np.int64]],
        first_batch: Callable[[], tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]],
        profile_steps: tuple[int, int] | None,
    ) -> None:
        # The graph is written here: Keras writes that of a plain functional model only.
        super().__init__(log_dir, write_graph=False, profile_batch=profile_steps or 0)
        # With its path, so that two runs with the same hyperparameters are two rows; the name comes
        # first, since the table cuts what is long.
        self._trial = f"{log_dir.parent.name} ({log_dir})"
        self._hparams = hparams
        self._expressions = expressions
        self._confusion = confusion
        self._first_batch = first_batch
        self._begun = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Writes what the run is."""
        super().on_train_begin(logs)
        self._write_to_run(
            _hparams_table(self._hparams),
            hparams_summary.session_start_pb(self._hparams, group_name=self._trial),
        )
        with self._train_writer.as_default():
            _write_graph(self.model)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Shows a batch, at the first of this process's epochs, which only now is known."""
        super().on_epoch_begin(epoch, logs)
        if self._begun:
            return
        self._begun = True
        images, labels = (values[:_BATCH_IMAGES] for values in self._first_batch())
        captions = label_captions(labels, self._expressions)
        with self._train_writer.as_default(step=epoch):
            _write_picture("batch", lambda path: figures.captioned_images(images, captions, path))
        self._train_writer.flush()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the epoch's logs, and what its validation got right and wrong."""
        super().on_epoch_end(epoch, logs)
        counts = self._confusion()
        per_expression, macro = f1_scores(counts)
        metrics = {
            "split": "validation",
            "examples": counts.sum(),
            "accuracy": counts.trace() / counts.sum(),
            "confusion_matrix": counts,
        }
        with self._val_writer.as_default(step=epoch):
            for name, score in zip(self._expressions, per_expression, strict=True):
                tf.summary.scalar(f"f1/{name}", score)
            tf.summary.scalar("macro_f1", macro)
            _write_picture("confusion_matrix", lambda path: figures.confusion_matrix(metrics, path))
        for writer in self._writers.values():  # so that the epoch can be seen when it is over
            writer.flush()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Writes that the run is complete."""
        super().on_train_end(logs)
        self._write_to_run(hparams_summary.session_end_pb(hparams_pb2.STATUS_SUCCESS))

    def _collect_learning_rate(self, logs: Any) -> Any:
        # Of several processes, one alone is to compute nothing that all share; then it is there.
        return logs if "learning_rate" in logs else super()._collect_learning_rate(logs)

    def _start_trace(self) -> None:
        # Keras also traces the graph, finds none, and TensorBoard shows that one first.
        self._start_profiler(logdir=self._train_dir)
        self._is_tracing = True

    def _stop_trace(self, batch: int | None = None) -> None:
        self._stop_profiler()
        self._is_tracing = False

    def _write_to_run(self, *summaries: Any) -> None:
        writer = tf.summary.create_file_writer(self.log_dir)
        with writer.as_default(step=0):
            for summary in summaries:
                tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        writer.close()


def _hparams_table(hparams: Mapping[str, HParam]) -> Any:
    """Returns the summary that says which columns the HParams tab has."""
    return hparams_summary.experiment_pb(
        [
            hparams_pb2.HParamInfo(name=name, type=_HPARAM_TYPES[type(value)])
            for name, value in hparams.items()
        ],
        [
            hparams_pb2.MetricInfo(
                name=hparams_pb2.MetricName(group=run, tag=tag), display_name=heading
            )
            for run, tag, heading in _METRICS
        ],
    )


def _write_graph(model: keras.Model) -> None:
    """Writes a functional model's layers as a graph of operations.

    TensorBoard shows such a graph at once, and Keras's own form of it only when asked.  The parts
    of the layers' names become boxes within boxes.
    """
    graph = tf.compat.v1.GraphDef()
    for layer in model.layers:
        node = graph.node.add(name=_box(layer.name), op=type(layer).__name__)
        if not isinstance(layer, keras.layers.InputLayer):
            inputs = keras.tree.flatten(layer.input)
            node.input.extend(_box(tensor._keras_history.operation.name) for tensor in inputs)
        shape = tf.TensorShape(layer.output.shape).as_proto()
        node.attr["_output_shapes"].list.shape.append(shape)
    tf.summary.graph(graph)


def _box(layer_name: str) -> str:
    return layer_name.replace("_", "/")


def _write_picture(name: str, draw: Callable[[Path], None]) -> None:
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "picture.png"
            draw(path)
            drawn = path.read_bytes()
    except Exception as error:  # whatever a library raises: no training is worth losing for it
        _log.warning("the picture %s could not be drawn: %s", name, error)
        return
    tf.summary.image(name, tf.io.decode_png(drawn, channels=3)[tf.newaxis])


def f1_scores(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], float]:
    """Returns each expression's F1 and their mean, as `evaluation.compute_metrics` does.

    Args:
      counts: int64 [expressions, expressions], rows: truth.

    Returns:
      float64 [expressions], and the mean over those that have examples.
    """
    support = counts.sum(axis=1)
    scores = 2 * counts.diagonal() / np.maximum(support + counts.sum(axis=0), 1)
    return scores, float(scores[support > 0].mean())


def label_captions(labels: npt.NDArray[Any], expressions: Sequence[str]) -> list[str]:
    """Returns labels in words: "happy", or the two largest shares of one that is mixed.

    Args:
      labels: ids [n], or shares [n, expressions].
      expressions: in order.
    """
    if labels.ndim == 1:
        return [expressions[label] for label in labels]
    return [_shares_in_words(shares, expressions) for shares in labels]


def _shares_in_words(shares: npt.NDArray[Any], expressions: Sequence[str]) -> str:
    largest = np.argsort(-shares, kind="stable")[:2]
    tenths = {expressions[i]: round(10 * float(shares[i])) for i in largest}
    if max(tenths.values()) == 10:
        return expressions[largest[0]]
    return " / ".join(f"{name} .{share}" for name, share in tenths.items() if share)


def embeddings(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns what goes into the last layer, averaged over the pixels where it has any.

    Args:
      model: one of `models.BUILDERS`, whose last layer is called "logits".
      images: uint8 [n, height, width, 1 or 3].

    Returns:
      float32 [n, features].
    """
    features = keras.Model(model.inputs, model.get_layer("logits").input)
    batches = untuned(tf.data.Dataset.from_tensor_slices(images).batch(_EMBEDDING_BATCH))
    values = features.predict(batches, verbose=0).astype(np.float32)
    return values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)


def write_results(
    log_dir: Path,
    predictions: Predictions,
    images_at: _ImagesAt,
    embed: _Embed,
    expressions: Sequence[str],
    *,
    trained_on: bool = False,
) -> None:
    """Writes what the chosen weights make of the validation split, in place of what stood there.

    These are its accuracy and macro F1, its confusion matrix, the worst mistakes, an expression's
    precision and recall by threshold, and for the projector the embeddings of at most 2,000
    examples, evenly spaced.  Of the images no more are asked for than are shown.

    Args:
      log_dir: the training's.
      predictions: of n examples.
      images_at: returns the images at some of their places, uint8 [m, height, width, 1 or 3].
      embed: returns the embeddings of images, float32 [m, features].
      expressions: in order.
      trained_on: the weights have learned from these examples.  Accuracy and macro F1, by which
        HParams ranks the runs, are then left out.

    Raises:
      InputError: the directory cannot be written to.
    """
    metrics = {**compute_metrics(predictions, expressions=expressions), "split": "validation"}
    with atomic.exclusive_directory(log_dir / _CHOSEN) as (directory, publish):
        writer = tf.summary.create_file_writer(str(directory))
        with writer.as_default(step=0):
            if not trained_on:
                tf.summary.scalar("val_accuracy", metrics["accuracy"])
                tf.summary.scalar("macro_f1", metrics["macro_f1"])
            _write_picture("confusion_matrix", lambda path: figures.confusion_matrix(metrics, path))
            _write_mistakes(predictions, images_at, expressions)
            _write_pr_curves(predictions, expressions)
        writer.close()
        _write_projector(directory, predictions, images_at, embed, expressions)
        publish()


def _write_mistakes(
    predictions: Predictions,
    images_at: _ImagesAt,
    expressions: Sequence[str],
) -> None:
    places = worst_mistakes(predictions)[:_MISTAKES]
    if not len(places):
        return
    _write_picture(
        "worst_mistakes",
        lambda path: figures.mistakes(
            images_at(places),
            predictions.labels[places],
            predictions.probabilities[places],
            [f"row {row}" for row in predictions.rows[places]],
            expressions,
            path,
        ),
    )


def _write_pr_curves(predictions: Predictions, expressions: Sequence[str]) -> None:
    for label, name in enumerate(expressions):
        curve = pr_curve_summary.pb(
            name, predictions.labels == label, predictions.probabilities[:, label]
        )
        tf.summary.experimental.write_raw_pb(curve.SerializeToString())


def _write_projector(
    directory: Path,
    predictions: Predictions,
    images_at: _ImagesAt,
    embed: _Embed,
    expressions: Sequence[str],
) -> None:
    total = len(predictions.labels)
    places = np.linspace(0, total - 1, min(total, _PROJECTED)).round().astype(np.int64)
    images = images_at(places)
    # As text: the projector first tries to read any file so.
    np.savetxt(directory / "embeddings.tsv", embed(images), fmt="%.6g", delimiter="\t")

    lines = ["truth\tanswer\tright\tprobability\trow"]
    for place in places:
        probabilities, label = predictions.probabilities[place], predictions.labels[place]
        answer = probabilities.argmax()
        right = "right" if answer == label else "wrong"
        lines.append(
            f"{expressions[label]}\t{expressions[answer]}\t{right}"
            f"\t{probabilities[answer]:.3f}\t{predictions.rows[place]}"
        )
    (directory / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    side = min(images.shape[1], _SPRITE_SIDE)
    _sprite(images, side).save(directory / "sprite.png")

    config = projector.ProjectorConfig()
    info = config.embeddings.add()
    info.tensor_name = f"validation, {len(places)} of {total} examples"
    info.tensor_path = "embeddings.tsv"
    info.metadata_path = "metadata.tsv"
    info.sprite.image_path = "sprite.png"
    info.sprite.single_image_dim.extend([side, side])
    projector.visualize_embeddings(directory, config)


def _sprite(images: npt.NDArray[np.uint8], side: int) -> Image.Image:
    """Returns square images as the tiles of a square, row by row, as the projector wants them."""
    tiles = int(np.ceil(np.sqrt(len(images))))
    sprite = Image.new("RGB", (tiles * side, tiles * side))
    for number, image in enumerate(images):
        row, column = divmod(number, tiles)
        tile = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        sprite.paste(tile.resize((side, side)), (column * side, row * side))
    return sprite
