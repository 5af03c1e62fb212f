"""What a step of a training does beyond Keras's."""

import keras
import pytest
import tensorflow as tf

from fer_tfdata.tensorflow_step import TensorFlowStep
from tests import tiny_network

_IMAGES = tf.TensorSpec((4, 12, 12, 1), tf.uint8)
_LABELS = tf.TensorSpec((4,), tf.int64)


@pytest.mark.parametrize(
    "batch",
    [(_IMAGES, _LABELS), ({"images": _IMAGES}, _LABELS), (_IMAGES, _LABELS, None)],
    ids=["images", "rows", "train_on_batch"],
)
def test_nothing_is_computed_before_the_clock_says_when_the_batch_came(batch) -> None:
    network = tiny_network.build(image_size=12, channels=1, num_classes=7)
    model = TensorFlowStep(network.inputs, network.outputs)
    model.compile(
        optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.make_train_function()
    graph = tf.function(model.train_step).get_concrete_function(batch).graph
    clocks = [each for each in graph.get_operations() if each.type == "Timestamp"]
    convolutions = [each for each in graph.get_operations() if each.type == "Conv2D"]
    assert clocks
    assert convolutions
    assert set(clocks) <= _all_that_come_before(convolutions[0])


def _all_that_come_before(operation: tf.Operation) -> set[tf.Operation]:
    found: set[tf.Operation] = set()
    left = [operation]
    while left:
        each = left.pop()
        earlier = {*each.control_inputs, *(tensor.op for tensor in each.inputs)} - found
        found |= earlier
        left.extend(earlier)
    return found
