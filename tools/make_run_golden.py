#!/usr/bin/env python3
"""Writes tests/golden/run_ops.txt: one small case per operator variant, with the outputs of ONNX Runtime.

Development time only; needs numpy, onnx and onnxruntime. Attributes are written in the normalised form of
src/graph/op.h (explicit pads, canonical weights), inputs as float32 decimals that round-trip. Deterministic.
Usage: make_run_golden.py OUT"""
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

rng = np.random.default_rng(20240607)
lines = []


def random(*shape, scale=1.0):
    return np.round(rng.normal(size=shape) * scale, 4).astype(np.float32)


def numbers(array):
    return " ".join("%.9g" % v for v in np.asarray(array, np.float32).reshape(-1))


def evaluate(op, tensors, attributes, opset, output_type):
    """tensors: list of (name, array or None); the first is the network's input, the rest are initializers."""
    names = [name if array is not None else "" for name, array in tensors]
    while names and names[-1] == "":
        names.pop()
    inits = [onnx.numpy_helper.from_array(a, n) for n, a in tensors[1:] if a is not None]
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(tensors[0][1].dtype), tensors[0][1].shape)
    y = helper.make_tensor_value_info("y", output_type, None)
    node = helper.make_node(op, names, ["y"], **attributes)
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], inits),
                              opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": tensors[0][1]})[0]


def case(name, op, tensors, attributes=None, ours=None, graph_constants=None, opset=19, given=False,
         output_type=TensorProto.FLOAT, x_as=None):
    """ours: list of 'key numbers' in our form; graph_constants: the constants of our node when they differ."""
    y = evaluate(op, tensors, attributes or {}, opset, output_type)
    x = tensors[0][1]
    lines.append(f"case {name}")
    lines.append(f"op {op}")
    for line in ours or []:
        lines.append(f"attribute {line}")
    lines.append("input " + " ".join(map(str, [x.ndim, *x.shape])))
    lines.append(numbers(x))
    constants = graph_constants if graph_constants is not None else [a for _, a in tensors[1:]]
    for a in constants:
        if a is None:
            lines.append("missing")
            continue
        lines.append("constant " + " ".join(map(str, [a.ndim, *a.shape])))
        lines.append(numbers(a))
    lines.append(("given " if given else "output ") + " ".join(map(str, [y.ndim, *y.shape])))
    lines.append(numbers(y))


def window(kernel, strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0)):
    return "window " + " ".join(map(str, [*kernel, *strides, *dilations, *pads]))


def conv(name, n, c, h, w, oc, group=1, bias=True, **k):
    weight = random(oc, c // group, *k["kernel"], scale=0.5)
    k = dict(strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0)) | k
    case(name, "Conv", [("x", random(n, c, h, w)), ("w", weight), ("b", random(oc) if bias else None)],
         dict(kernel_shape=k["kernel"], strides=k["strides"], dilations=k["dilations"], pads=k["pads"], group=group),
         [window(**k), f"group {group}"])


def conv_transpose(name, n, c, h, w, oc, group=1, output_padding=(0, 0), **k):
    weight = random(c, oc // group, *k["kernel"], scale=0.5)
    k = dict(strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0)) | k
    case(name, "ConvTranspose", [("x", random(n, c, h, w)), ("w", weight), ("b", random(oc))],
         dict(kernel_shape=k["kernel"], strides=k["strides"], dilations=k["dilations"], pads=k["pads"], group=group,
              output_padding=output_padding), [window(**k), f"group {group}"], given=True)


def pool(name, op, n, c, h, w, ceil=0, include=0, **k):
    k = dict(strides=(1, 1), pads=(0, 0, 0, 0)) | k
    attributes = dict(kernel_shape=k["kernel"], strides=k["strides"], pads=k["pads"], ceil_mode=ceil)
    if "dilations" in k:
        attributes["dilations"] = k["dilations"]
    if op == "AveragePool":
        attributes["count_include_pad"] = include
    case(name, op, [("x", random(n, c, h, w))], attributes, [window(**k), f"include {include}"], given=True)


conv("conv_3x3", 2, 3, 6, 5, 4, kernel=(3, 3), pads=(1, 1, 1, 1))
conv("conv_strided_asymmetric", 2, 3, 7, 6, 5, kernel=(3, 2), strides=(2, 3), pads=(0, 1, 1, 0))
conv("conv_dilated", 1, 2, 9, 8, 3, kernel=(3, 3), dilations=(2, 3), pads=(2, 1, 2, 4))
conv("conv_grouped", 2, 4, 5, 5, 6, group=2, kernel=(3, 3), pads=(1, 1, 1, 1))
conv("conv_depthwise", 2, 5, 6, 6, 5, group=5, kernel=(3, 3), strides=(2, 2), pads=(0, 0, 1, 1))
conv("conv_map_smaller_than_kernel", 2, 2, 2, 1, 3, kernel=(5, 3), pads=(2, 1, 2, 1))
conv("conv_1x1_no_bias", 1, 6, 4, 4, 7, bias=False, kernel=(1, 1), strides=(2, 2))
conv_transpose("conv_transpose", 2, 3, 4, 3, 2, kernel=(3, 3), strides=(2, 2), pads=(1, 0, 1, 1))
conv_transpose("conv_transpose_output_padding", 1, 4, 3, 3, 4, group=2, kernel=(3, 2), strides=(2, 3),
               output_padding=(1, 2), pads=(1, 0, 0, 0))
conv_transpose("conv_transpose_dilated", 1, 2, 3, 4, 3, kernel=(2, 3), dilations=(2, 2))

w = random(4, 6)
b = random(4)
case("gemm", "Gemm", [("x", random(3, 6)), ("w", w), ("b", b)], dict(transB=1))
case("gemm_no_bias", "Gemm", [("x", random(2, 6)), ("w", w)], dict(transB=1))
w = random(5, 3)
case("matmul_rank3", "MatMul", [("x", random(2, 4, 5)), ("w", w)], graph_constants=[np.ascontiguousarray(w.T)])

c = [random(3), random(3), random(3), np.abs(random(3)) + np.float32(0.01)]
case("batch_norm", "BatchNormalization", [("x", random(2, 3, 4, 3)), *zip("gbmv", c)], dict(epsilon=1e-3),
     ["epsilon 0.001"])
case("batch_norm_rank2", "BatchNormalization", [("x", random(4, 3)), *zip("gbmv", c)], dict(epsilon=1e-5),
     ["epsilon 1e-5"])

x = random(2, 3, 4, 4, scale=3.0)
case("relu", "Relu", [("x", x)])
case("leaky_relu", "LeakyRelu", [("x", x)], dict(alpha=0.1), ["linear 0.1 0"])
case("prelu_channel", "PRelu", [("x", x), ("s", random(3, 1, 1))])
case("prelu_shared", "PRelu", [("x", x), ("s", random(1))])
case("prelu_full", "PRelu", [("x", x), ("s", random(3, 4, 4))])
lo, hi = np.float32(0).reshape(()), np.float32(6).reshape(())
case("clip_relu6", "Clip", [("x", random(2, 3, 3, 3, scale=5.0)), ("lo", lo), ("hi", hi)], None, ["clip 0 6"],
     graph_constants=[])
case("clip_low_only", "Clip", [("x", x), ("lo", np.float32(-0.5).reshape(()))], None, ["clip -0.5 inf"],
     graph_constants=[])
case("sigmoid", "Sigmoid", [("x", x)])
case("hard_sigmoid", "HardSigmoid", [("x", x)], dict(alpha=0.25, beta=0.4), ["linear 0.25 0.4"])
case("hard_swish", "HardSwish", [("x", x)])
case("tanh", "Tanh", [("x", x)])
case("softmax_last", "Softmax", [("x", random(3, 7, scale=4.0))], dict(axis=-1), ["axes 1 2"])
case("softmax_channel", "Softmax", [("x", x)], dict(axis=1), ["axes 1 2"])
case("softmax_coerced", "Softmax", [("x", random(2, 3, 2, 2))], dict(axis=1), ["axes 1 4"], opset=11)

pool("max_pool", "MaxPool", 2, 3, 6, 7, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
pool("max_pool_ceil", "MaxPool", 2, 2, 6, 7, ceil=1, kernel=(3, 2), strides=(2, 3), pads=(0, 1, 1, 0))
pool("max_pool_dilated", "MaxPool", 1, 2, 8, 7, kernel=(3, 2), dilations=(2, 3), pads=(1, 0, 0, 1))
pool("average_pool", "AveragePool", 2, 3, 6, 5, kernel=(2, 3), strides=(2, 2))
pool("average_pool_exclude", "AveragePool", 2, 2, 6, 5, kernel=(3, 3), strides=(2, 2), pads=(1, 0, 2, 1))
pool("average_pool_include", "AveragePool", 2, 2, 6, 5, include=1, kernel=(3, 3), strides=(2, 2), pads=(1, 0, 2, 1))
pool("average_pool_ceil_exclude", "AveragePool", 1, 2, 6, 7, ceil=1, kernel=(3, 3), strides=(2, 2), pads=(0, 1, 0, 1))
pool("average_pool_ceil_include", "AveragePool", 1, 2, 6, 8, ceil=1, include=1, kernel=(3, 3), strides=(2, 2),
     pads=(0, 1, 0, 1))
case("global_average_pool", "GlobalAveragePool", [("x", random(2, 5, 4, 3))])
case("reduce_mean", "ReduceMean", [("x", random(2, 5, 4, 3)), ("axes", np.array([2, 3]))], dict(keepdims=0),
     graph_constants=[], given=True)

for op in ("Add", "Sub", "Mul", "Div"):
    shift = np.float32(3.0) if op == "Div" else np.float32(0)
    case(f"{op.lower()}_same", op, [("x", x), ("c", random(1, 3, 4, 4) + shift)])
    case(f"{op.lower()}_channel", op, [("x", x), ("c", random(3, 1, 1) + shift)])
    case(f"{op.lower()}_scalar", op, [("x", x), ("c", random() + shift)])
    case(f"{op.lower()}_row", op, [("x", x), ("c", random(4) + shift)])
case("add_grows", "Add", [("x", random(2, 3, 1, 1)), ("c", random(1, 3, 2, 4))])

case("concat_constant", "Concat", [("x", random(1, 2, 3, 2)), ("c", random(1, 3, 3, 2))], dict(axis=1), ["axes 1 2"])
case("concat_last", "Concat", [("x", random(1, 4, 2)), ("c", random(1, 4, 3))], dict(axis=2), ["axes 2 3"])
case("pad", "Pad", [("x", random(2, 2, 3, 4)), ("p", np.array([0, 1, 2, 0, 0, 0, 1, 3])),
                    ("v", np.float32(-1.5).reshape(()))], None, ["pad 0 1 2 0 0 0 1 3 -1.5"], graph_constants=[])
case("pad_crop", "Pad", [("x", random(2, 2, 4, 4)), ("p", np.array([0, 0, -1, 2, 0, 0, 1, -2]))], None,
     ["pad 0 0 -1 2 0 0 1 -2 0"], graph_constants=[])
case("transpose", "Transpose", [("x", random(2, 3, 4, 2))], dict(perm=[0, 2, 3, 1]), ["permutation 0 2 3 1"])
case("flatten", "Flatten", [("x", random(2, 3, 2, 2))], dict(axis=1), given=True)
case("reshape", "Reshape", [("x", random(2, 3, 2, 2)), ("s", np.array([0, 4, 3]))], graph_constants=[], given=True)
case("squeeze", "Squeeze", [("x", random(2, 3, 1, 1)), ("a", np.array([2, 3]))], graph_constants=[], given=True)
case("unsqueeze", "Unsqueeze", [("x", random(2, 3)), ("a", np.array([2, 3]))], graph_constants=[], given=True)
case("identity", "Identity", [("x", random(2, 3))])
case("dropout", "Dropout", [("x", random(2, 3))])

x = np.concatenate([np.arange(-24, 24, dtype=np.float32) * np.float32(0.125), random(16, scale=4.0)]).reshape(2, 32)
case("quantize_uint8", "QuantizeLinear", [("x", x), ("s", np.float32(0.25).reshape(())),
                                          ("z", np.uint8(7).reshape(()))], None, ["quantize 1 0 255"],
     output_type=TensorProto.UINT8)
case("quantize_int8_axis", "QuantizeLinear",
     [("x", random(2, 3, 4)), ("s", np.float32([0.01, 0.02, 0.5])), ("z", np.int8([0, -3, 5]))], dict(axis=1),
     ["quantize 1 -128 127"], output_type=TensorProto.INT8)
q = rng.integers(0, 255, size=(2, 3, 4)).astype(np.uint8)
case("dequantize_uint8", "DequantizeLinear", [("x", q), ("s", np.float32(0.037).reshape(())),
                                              ("z", np.uint8(128).reshape(()))], None, ["quantize 1 0 255"])
case("dequantize_axis", "DequantizeLinear", [("x", q), ("s", np.float32([0.1, 0.2, 0.3])),
                                             ("z", np.uint8([1, 2, 3]))], dict(axis=1), ["quantize 1 0 255"])
lines.append("end")

with open(sys.argv[1], "w") as f:
    f.write("\n".join(lines) + "\n")
