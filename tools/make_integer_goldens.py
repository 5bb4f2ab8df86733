#!/usr/bin/env python3
"""One small residual network in the forms in which tools write integer networks, and what ONNX Runtime computes.

    python3 tools/make_integer_goldens.py tests/golden/integer

Writes float.onnx, its quantized forms FORM.onnx, 16 inputs inputs.npy (16, 2, 8, 8) and FORM.txt, one line an input,
its outputs as hexadecimal float32. Needs numpy, onnx and onnxruntime; tests only read the results.

    fixed_point   Mul, Round, Clip, Mul by powers of two behind every activation
    half_up       the same with Add 1/2 and Floor
    round_down    the same with Floor alone
    reciprocal    Mul by a rounded reciprocal, Add of a zero point, Round, Clip, Sub, Mul
    cast          Div, Round, Clip, Cast to int8 and back, Mul
    integer       ConvInteger and MatMulInteger, Cast, Mul, Add
    qlinear       QLinearConv, QLinearAdd, QLinearConcat, QLinearGlobalAveragePool, QLinearMatMul
"""
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

C, SIDE, CLASSES, IMAGES = 4, 8, 5, 16


def weights():
    """Multiples of 1/64 with at most 8 bits, so that the float network and its integers are the same weights."""
    draw = np.random.default_rng(7)
    shapes = {"w1": (C, 2, 3, 3), "w2": (C, C, 3, 3), "w3": (2 * C, CLASSES)}
    w = {name: draw.integers(-60, 61, shape).astype(np.float32) / 64 for name, shape in shapes.items()}
    w |= {f"b{i}": (draw.integers(-64, 65, n) / 64).astype(np.float32) for i, n in ((1, C), (2, C), (3, CLASSES))}
    return w


class Graph:
    def __init__(self, opset=13, contrib=False):
        self.nodes, self.constants, self.names = [], [], set()
        self.opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("com.microsoft", 1)] if contrib else [])

    def constant(self, name, value, dtype=np.float32):
        if name not in self.names:
            self.names.add(name)
            self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op, inputs, output, domain=None, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def save(self, path):
        graph = helper.make_graph(
            self.nodes, "small", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 2, SIDE, SIDE])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", CLASSES])], self.constants)
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def real_network(g, w, quantize, output_step=None):
    """conv, relu, conv, add, relu, concat of both, average, matrix; `quantize(value, step)` behind every activation.

    With output_step also behind the last layer: steps that are no powers of two make sums depend on their order, which
    the rounding hides."""
    conv = {"pads": [1, 1, 1, 1]}
    for name, value in w.items():
        g.constant(name, value)
    x = quantize("input", 2**-6)
    a = quantize(g.node("Relu", [g.node("Conv", [x, "w1", "b1"], "c1", **conv)], "a"), 2**-4)
    c2 = quantize(g.node("Conv", [a, "w2", "b2"], "c2", **conv), 2**-3)
    b = quantize(g.node("Relu", [g.node("Add", [a, c2], "sum")], "b"), 2**-3)
    both = quantize(g.node("Concat", [a, b], "both", axis=1), 2**-3)
    mean = quantize(g.node("GlobalAveragePool", [both], "mean"), 2**-4)
    flat = g.node("Flatten", [mean], "flat")
    if output_step is None:
        g.node("Gemm", [flat, "w3", "b3"], "output")
        return
    quantize(g.node("Gemm", [flat, "w3", "b3"], "logits"), output_step)
    g.nodes[-1].output[0] = "output"


# Steps without common multiples: no exact ties, which the order of float32 sums would decide.
ODD = {"input": 1.1, "a": 1.07, "c2": 1.13, "b": 1.17, "both": 1.03, "mean": 1.19, "logits": 1.23}


def fixed_point(kind):
    def build(g, w):
        def quantize(value, step):
            tag = f"{value}_{kind}"
            signed = value in ("input", "c2", "logits")
            lo, hi, zero = (-128, 127, 0) if signed else (0, 255, 0)
            if kind == "reciprocal":
                step, lo, hi, zero = np.float32(step * ODD[value]), 0, 255, 128 if signed else 0
            if kind == "cast":
                step, lo, hi = np.float32(step * 1.2 * ODD[value]), -128, 127
            number = g.constant(f"{tag}_step", step)
            if kind == "cast":
                scaled = g.node("Div", [value, number], f"{tag}_scaled")
            else:
                scaled = g.node("Mul", [value, g.constant(f"{tag}_inverse", np.float32(1) / np.float32(step))],
                                f"{tag}_scaled")
            if zero != 0:
                scaled = g.node("Add", [scaled, g.constant("zero", zero)], f"{tag}_shifted")
            if kind == "half_up":
                scaled = g.node("Add", [scaled, g.constant("half", 0.5)], f"{tag}_half")
            code = g.node("Floor" if kind in ("half_up", "round_down") else "Round", [scaled], f"{tag}_rounded")
            code = g.node("Clip", [code, g.constant(f"lo{lo}", lo), g.constant(f"hi{hi}", hi)], f"{tag}_code")
            if kind == "cast":
                code = g.node("Cast", [code], f"{tag}_int8", to=TensorProto.INT8)
                code = g.node("Cast", [code], f"{tag}_float", to=TensorProto.FLOAT)
            if zero != 0:
                code = g.node("Sub", [code, "zero"], f"{tag}_centred")
            return g.node("Mul", [code, number], f"{tag}_real")
        real_network(g, w, quantize, 2**-5 if kind in ("reciprocal", "cast") else None)
    return build


def codes_of(w, step=1 / 64):
    return np.rint(w / np.float32(step)).astype(np.int8)


def integer(g, w):
    """x codes of zero point 128, other activations of zero point 0; weights as int8."""
    def codes(value, step, zero):
        scale, point = g.constant(f"s{step}", step), g.constant(f"z{zero}", zero, np.uint8)
        return g.node("QuantizeLinear", [value, scale, point], f"{value}_codes"), scale, point

    def layer(op, value, step, zero, weight, bias, output, axes):
        code, _, point = codes(value, step, zero)
        g.constant(f"{weight}_codes", codes_of(w[weight]), np.int8)
        kernel = {"pads": [1, 1, 1, 1]} if op == "ConvInteger" else {}
        total = g.node(op, [code, f"{weight}_codes", point, g.constant("w_zero", 0, np.int8)], f"{output}_sum", **kernel)
        if bias == "b2": # integer bias in front of the scale
            number = np.rint(w[bias] * 64 / step).astype(np.int32).reshape(axes)
            total = g.node("Add", [total, g.constant(f"{bias}_codes", number, np.int32)], f"{output}_biased")
        real = g.node("Cast", [total], f"{output}_float", to=TensorProto.FLOAT)
        factor = g.constant(f"{output}_factor", step / 64)
        if bias == "b2":
            return g.node("Mul", [factor, real], output)
        scaled = g.node("Mul", [real, factor], f"{output}_scaled")
        return g.node("Add", [scaled, g.constant(bias, w[bias].reshape(axes))], output)

    def quantized(value, step, zero):
        code, scale, point = codes(value, step, zero)
        return g.node("DequantizeLinear", [code, scale, point], f"{value}_real")

    c = (1, C, 1, 1)
    layer("ConvInteger", "input", 2**-6, 128, "w1", "b1", "c1", c)
    a = g.node("Relu", ["c1"], "a")
    layer("ConvInteger", a, 2**-4, 0, "w2", "b2", "c2", c)
    real = g.node("DequantizeLinear", ["a_codes", f"s{2**-4}", "z0"], "a_real")
    b = g.node("Relu", [g.node("Add", [real, quantized("c2", 2**-3, 128)], "sum")], "b")
    both = g.node("Concat", [real, quantized(b, 2**-3, 0)], "both", axis=1)
    g.node("Flatten", [g.node("GlobalAveragePool", [both], "mean")], "flat")
    layer("MatMulInteger", "flat", 2**-4, 0, "w3", "b3", "output", (1, CLASSES))


def qlinear(g, w):
    """Scales that are no powers of two."""
    def grid(name, scale, zero):
        return [g.constant(f"{name}_scale", np.float32(scale)), g.constant(f"{name}_zero", zero, np.uint8)]

    grids = {"x": grid("x", 0.0131, 120), "a": grid("a", 0.0457, 0), "c2": grid("c2", 0.093, 131),
             "b": grid("b", 0.071, 0), "both": grid("both", 0.083, 0), "mean": grid("mean", 0.047, 0),
             "y": grid("y", 0.061, 128)}
    for i in (1, 2, 3):
        g.constant(f"w{i}_codes", codes_of(w[f"w{i}"]), np.int8)
    weight = [g.constant("w_scale", 1 / 64), g.constant("w_zero", 0, np.int8)]

    def conv(x, name, i, y):
        step = np.float32(numpy_helper.to_array(next(c for c in g.constants if c.name == f"{name}_scale")))
        bias = g.constant(f"b{i}_codes", np.rint(w[f"b{i}"] / (step / np.float32(64))), np.int32)
        return g.node("QLinearConv", [x, *grids[name], f"w{i}_codes", *weight, *grids[y], bias], f"{y}_codes",
                      pads=[1, 1, 1, 1])

    x = g.node("QuantizeLinear", ["input", *grids["x"]], "x_codes")
    a = conv(x, "x", 1, "a")
    c2 = conv(a, "a", 2, "c2")
    ms = "com.microsoft"
    b = g.node("QLinearAdd", [a, *grids["a"], c2, *grids["c2"], *grids["b"]], "b_codes", domain=ms)
    both = g.node("QLinearConcat", [*grids["both"], a, *grids["a"], b, *grids["b"]], "both_codes", domain=ms, axis=1)
    mean = g.node("QLinearGlobalAveragePool", [both, *grids["both"], *grids["mean"]], "mean_codes", domain=ms,
                  channels_last=0)
    flat = g.node("Flatten", [mean], "flat_codes")
    y = g.node("QLinearMatMul", [flat, *grids["mean"], "w3_codes", *weight, *grids["y"]], "y_codes")
    g.node("Add", [g.node("DequantizeLinear", [y, *grids["y"]], "y"), g.constant("b3", w["b3"])], "output")


def qlinear_float(g, w):
    """The float network of the form qlinear, whose bias is added by a node of its own."""
    for name, value in w.items():
        g.constant(name, value)
    conv = {"pads": [1, 1, 1, 1]}
    a = g.node("Relu", [g.node("Conv", ["input", "w1", "b1"], "c1", **conv)], "a")
    b = g.node("Relu", [g.node("Add", [a, g.node("Conv", [a, "w2", "b2"], "c2", **conv)], "sum")], "b")
    flat = g.node("Flatten", [g.node("GlobalAveragePool", [g.node("Concat", [a, b], "both", axis=1)], "mean")], "flat")
    g.node("Add", [g.node("MatMul", [flat, "w3"], "y"), "b3"], "output")


def run(path, inputs):
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs})[0]


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    w = weights()
    # multiples of 1/256: sums of products are exact in float32, and ties are common
    inputs = (np.random.default_rng(11).integers(-256, 257, (IMAGES, 2, SIDE, SIDE)) / 256).astype(np.float32)
    np.save(os.path.join(folder, "inputs.npy"), inputs)
    forms = {kind: fixed_point(kind) for kind in ("fixed_point", "half_up", "round_down", "reciprocal", "cast")}
    forms |= {"integer": integer, "qlinear": qlinear, "qlinear_float": qlinear_float}
    forms["float"] = lambda g, w: real_network(g, w, lambda value, step: value)
    for name, build in forms.items():
        g = Graph(contrib=name == "qlinear")
        build(g, w)
        path = os.path.join(folder, f"{name}.onnx")
        g.save(path)
        if "float" not in name:
            with open(path.replace(".onnx", ".txt"), "w") as file:
                for row in run(path, inputs):
                    print(*(float(value).hex() for value in row), file=file)


main()
