"""Makes the small networks beside this file (needs the Python package onnx; the files are committed)."""
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))


def tensor(name, *shape):
    values = np.arange(int(np.prod(shape)), dtype=np.float32) % 7 - 3
    return numpy_helper.from_array((values / 4).reshape(shape), name)


def save(name, nodes, initializers, shape, output):
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, os.path.join(HERE, name + ".onnx"))


def branch(name, op):
    node = helper.make_node(op, ["hidden"], ["result"])
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)])


# an operator without a rule between two layers
save(
    "unsupported",
    [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Erf", ["c1"], ["e1"], name="odd"),
        helper.make_node("Conv", ["e1", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["output"], name="last"),
    ],
    [tensor("w1", 4, 1, 3, 3), tensor("b1", 4), tensor("w2", 2, 4, 3, 3)],
    ["N", 1, 8, 8],
    "output",
)

# control flow
save(
    "control_flow",
    [
        helper.make_node("Gemm", ["input", "w"], ["hidden"], name="layer"),
        helper.make_node(
            "If", ["yes"], ["output"], name="choice", then_branch=branch("then", "Relu"), else_branch=branch("else", "Neg")
        ),
    ],
    [tensor("w", 5, 3), numpy_helper.from_array(np.array(True), "yes")],
    ["N", 5],
    "output",
)

# no operator at all is wrong, but a weight is not a number
weight = np.ones((5, 3), dtype=np.float32)
weight[2, 1] = np.nan
save(
    "nan_weight",
    [helper.make_node("Gemm", ["input", "w"], ["output"], name="layer")],
    [numpy_helper.from_array(weight, "w")],
    ["N", 5],
    "output",
)

# nodes in a circle
save(
    "cycle",
    [
        helper.make_node("Add", ["input", "b"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
    ],
    [],
    ["N", 5],
    "b",
)

# a chain without biases, for which the published theorems hold as they are
save(
    "chain",
    [
        helper.make_node("Conv", ["input", "w1"], ["c1"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="two"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Flatten", ["r2"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3"], ["output"], name="three", transB=1),
    ],
    [tensor("w1", 4, 1, 3, 3), tensor("w2", 2, 4, 3, 3), tensor("w3", 3, 72)],
    ["N", 1, 8, 8],
    "output",
)
