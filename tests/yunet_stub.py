"""A network in YuNet's form that takes every white cell of 8 x 8 pixels for a face's middle."""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FACE = (40, 56)  # width and height


def write_network(path: Path) -> Path:
    """Writes the network as ONNX."""
    nodes, outputs, constants = [], [], []

    def constant(name: str, values: list[float] | list[int], shape: list[int]) -> str:
        array = np.array(values, np.int64 if name.startswith("shape") else np.float32)
        constants.append(numpy_helper.from_array(array.reshape(shape), name))
        return name

    shape = constant("shape", [1, -1, 1], [3])
    for stride in (8, 16, 32):
        bias = [0.5, 0.5, math.log(FACE[0] / stride), math.log(FACE[1] / stride)]
        share = constant(f"share_{stride}", [1 / 255 / 3 if stride == 8 else 0] * 3, [1, 3, 1, 1])
        parts = {"cls": [0.0], "obj": [0.0], "bbox": bias, "kps": [0.0] * 10}
        nodes += [
            helper.make_node("Conv", ["input", share], [f"gray_{stride}"]),
            helper.make_node(
                "AveragePool",
                [f"gray_{stride}"],
                [f"mean_{stride}"],
                kernel_shape=[stride, stride],
                strides=[stride, stride],
            ),
            helper.make_node("Reshape", [f"mean_{stride}", shape], [f"flat_{stride}"]),
        ]
        for part, values in parts.items():
            name, length = f"{part}_{stride}", len(values)
            factor = 1.0 if part in ("cls", "obj") else 0.0
            scale = constant(f"scale_{name}", [factor] * length, [1, length])
            offset = constant(f"offset_{name}", values, [length])
            nodes += [
                helper.make_node("MatMul", [f"flat_{stride}", scale], [f"scaled_{name}"]),
                helper.make_node("Add", [f"scaled_{name}", offset], [name]),
            ]
            outputs.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, length])
            )
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, None, None])
    graph = helper.make_graph(nodes, "stub", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
