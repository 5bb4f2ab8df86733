#!/usr/bin/env python3
"""Quantizes the demo network with ONNX Runtime's own static quantizer, for tests of files that others quantized.

    python3 tools/make_ort_quantized.py build/release/qbound_digits examples/demo/digits.onnx FOLDER

Writes FOLDER/<form>_<granularity>.onnx for the forms qdq and qoperator, per tensor and per channel, and beside each
a text of what ONNX Runtime computes with it: one line an image (test images 0 to 19), its ten outputs. Calibrated on
generated digits. Needs onnx, onnxruntime and numpy; tests only read the results, of which two files are committed.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

IMAGES, TEST_SEED, CALIBRATION_IMAGES, CALIBRATION_SEED = 20, 2, 64, 3


def digits(tool, count, seed, folder):
    prefix = os.path.join(folder, f"digits{seed}")
    subprocess.run([tool, str(count), str(seed), prefix], check=True)
    pixels = np.fromfile(prefix + "-images-idx3-ubyte", np.uint8)[16:].reshape(count, 1, 28, 28)
    return pixels.astype(np.float32) / np.float32(255)


def shorten(path):
    """Short tensor names, no node names, no value_info: a third less to store, and nothing left to match by name."""
    model = onnx.load(path)
    graph = model.graph
    names = {name: name for name in [""] + [value.name for value in (*graph.input, *graph.output)]}
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"c{len(names)}")
    for node in graph.node:
        node.name = node.doc_string = ""
        node.input[:] = [names.setdefault(name, f"t{len(names)}") for name in node.input]
        node.output[:] = [names.setdefault(name, f"t{len(names)}") for name in node.output]
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
    onnx.save(model, path)


class Reader(CalibrationDataReader):
    def __init__(self, images):
        self.rest = iter([{"input": image[None]} for image in images])

    def get_next(self):
        return next(self.rest, None)


def outputs(path, images):
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def main():
    tool, model, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = os.path.join(scratch, "prepared.onnx")
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        calibration = digits(tool, CALIBRATION_IMAGES, CALIBRATION_SEED, scratch)
        images = digits(tool, IMAGES, TEST_SEED, scratch)
        for form, label in ((QuantFormat.QDQ, "qdq"), (QuantFormat.QOperator, "qoperator")):
            for per_channel in (False, True):
                path = os.path.join(folder, f"{label}_{'channel' if per_channel else 'tensor'}.onnx")
                quantize_static(prepared, path, Reader(calibration), quant_format=form, per_channel=per_channel,
                                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
                shorten(path)
                with open(path.replace(".onnx", ".txt"), "w") as file:
                    for row in outputs(path, images):
                        print(*(f"{value:.9g}" for value in row), file=file)


main()
