#!/usr/bin/env python3
"""Writes the seeds of corpus_onnx: small models that together use every operator and every way to store constants.

Development time only (needs the Python module onnx); the seeds are committed. usage: make_corpus.py FOLDER"""
import os
import shutil
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

folder = sys.argv[1]
random = np.random.default_rng(7)


def floats(name, *shape):
    return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def save(name, opset, shape, result, nodes, initializers=(), output="y", **fields):
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, result)],
        list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7, **fields)
    with open(f"{folder}/{name}.onnx", "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


node = helper.make_node
image = ["N", 2, 5, 5]

save("residual", 13, image, ["N", 2], [
    node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
    node("BatchNormalization", ["c", "g", "b", "b", "v"], ["n"]),
    node("Relu", ["n"], ["r"]),
    node("Add", ["r", "x"], ["s"]),
    node("GlobalAveragePool", ["s"], ["p"]),
    node("Flatten", ["p"], ["f"]),
    node("Gemm", ["f", "m", "b"], ["y"], transB=1),
], [floats("w", 2, 2, 3, 3), floats("b", 2), floats("g", 2),
    numpy_helper.from_array(np.array([1, 2], np.float32), "v"), floats("m", 2, 2)])

save("windows", 19, image, ["N", 3], [
    node("ConvTranspose", ["x", "w"], ["t"], strides=[2, 2], output_padding=[1, 0], pads=[1, 0, 0, 1]),
    node("MaxPool", ["t"], ["m"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    node("AveragePool", ["m"], ["a"], kernel_shape=[2, 2], auto_pad="SAME_LOWER", count_include_pad=1),
    node("Pad", ["a", "pads"], ["p"]),
    node("ReduceMean", ["p", "axes"], ["y"], keepdims=0),
], [floats("w", 2, 3, 3, 3), ints("pads", 0, 0, 1, 1, 0, 0, 0, 2), ints("axes", 2, 3)])

save("activations", 14, ["N", 4], ["N", 4], [
    node("LeakyRelu", ["x"], ["a"], alpha=0.1),
    node("PRelu", ["a", "s"], ["b"]),
    node("HardSigmoid", ["b"], ["c"]),
    node("HardSwish", ["c"], ["d"]),
    node("Sigmoid", ["d"], ["e"]),
    node("Tanh", ["e"], ["f"]),
    node("Clip", ["f", "", "one"], ["g"]),
    node("Sub", ["g", "s"], ["h"]),
    node("Div", ["h", "two"], ["i"]),
    node("Max", ["i", "one"], ["j"]),
    node("Sum", ["j", "i", "h"], ["k"]),
    node("Softmax", ["k"], ["y"]),
], [floats("s", 4), numpy_helper.from_array(np.float32(1), "one"), numpy_helper.from_array(np.float32(2), "two")])

save("old_forms", 7, image, ["N", 7, 7, 2], [
    node("Constant", [], ["k"], value=floats("", 2, 1, 1)),
    node("Mul", ["x", "k"], ["a"]),
    node("Clip", ["a"], ["b"], min=0.0, max=6.0),
    node("Pad", ["b"], ["c"], pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.5),
    node("Dropout", ["c"], ["d", "mask"], ratio=0.5),
    node("Unsqueeze", ["d"], ["e"], axes=[2]),
    node("Squeeze", ["e"], ["f"], axes=[2]),
    node("Transpose", ["f"], ["g"], perm=[0, 2, 3, 1]),
    node("Softmax", ["g"], ["y"], axis=2),
])

save("shape_arithmetic", 11, image, ["N", 2, 25], [
    node("Shape", ["x"], ["s"]),
    node("Cast", ["s"], ["s2"], to=TensorProto.INT64),
    node("Gather", ["s2", "zero"], ["n"], axis=0),
    node("Unsqueeze", ["n"], ["n1"], axes=[0]),
    node("Slice", ["s2", "one", "two"], ["c"]),
    node("Mul", ["c", "c"], ["cc"]),
    node("Div", ["cc", "c"], ["c2"]),
    node("ConstantOfShape", ["one"], ["z"], value=helper.make_tensor("", TensorProto.INT64, [1], [-1])),
    node("Concat", ["n1", "c2", "z"], ["t"], axis=0),
    node("Reshape", ["x", "t"], ["y"]),
], [ints("one", 1), ints("two", 2), numpy_helper.from_array(np.array(0, np.int64), "zero")])

save("quantized", 21, ["N", 4], ["N", 3], [
    node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
    node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
    node("DequantizeLinear", ["q4", "s2", "z4"], ["w"], axis=0),
    node("DequantizeLinear", ["q8", "blocks"], ["v"], axis=1, block_size=2),
    node("QuantizeLinear", ["f", "s", "z"], ["fq"]),
    node("DequantizeLinear", ["fq", "s", "z"], ["fd"]),
    node("DequantizeLinear", ["b32", "s"], ["bias"]),
    node("Gemm", ["xd", "w", "bias"], ["a"], transB=1),
    node("MatMul", ["a", "v"], ["b"]),
    node("MatMul", ["b", "fd"], ["y"]),
], [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(3), "z"),
    helper.make_tensor("q4", TensorProto.INT4, [2, 4], [1, -2, 3, -4, 5, -6, 7, -8]),
    helper.make_tensor("z4", TensorProto.INT4, [2], [1, -1]), floats("s2_", 1),
    numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "s2"),
    helper.make_tensor("q8", TensorProto.INT8, [2, 4], list(range(8))),
    numpy_helper.from_array(np.full((2, 2), 0.5, np.float32), "blocks"), floats("f", 4, 3),
    numpy_helper.from_array(np.array([100, -100], np.int32), "b32")])

save("concat_identity", 13, image, ["N", 4, 3, 3], [
    node("Identity", ["w"], ["alias"]),
    node("Conv", ["x", "w"], ["a"], group=2),
    node("Conv", ["x", "alias"], ["b"], group=2, auto_pad="VALID"),
    node("Concat", ["a", "b"], ["c"], axis=1),
    node("Relu", ["c"], ["r"]),
    node("Min", ["r", "cap"], ["m"]),
    node("Identity", ["m"], ["i"]),
    node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
], [floats("w", 2, 1, 3, 3), numpy_helper.from_array(np.full((4, 1, 1), 2, np.float32), "cap")])

save("factors", 13, ["N", 3], ["N", 2], [
    node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0),
], [floats("w", 3, 2), floats("b", 1, 2)])

save("unsupported", 17, ["N", 3], ["N", 3], [
    node("Erf", ["x"], ["a"]),
    node("Gelu", ["a"], ["y"], domain="com.microsoft"),
])

# Quantization as arithmetic, and integer layers: tools/make_integer_goldens.py
for name in ("fixed_point", "reciprocal", "integer"):
    shutil.copy(os.path.join(os.path.dirname(__file__), "..", "golden", "integer", name + ".onnx"), folder)
