#!/usr/bin/env python3
"""Quantizes the demo network with NNCF, for tests of files that other tools than ONNX Runtime wrote.

    python3 tools/make_nncf_quantized.py build/release/qbound_digits examples/demo/digits.onnx FOLDER

Writes FOLDER/nncf.onnx (weights and activations of 8 bits, QDQ) and FOLDER/nncf.txt, what ONNX Runtime computes with
it: one line an image (test images 0 to 19), its ten outputs. Calibrated on generated digits. Needs nncf, onnx,
onnxruntime and numpy; tests only read the results.
"""
import os
import subprocess
import sys
import tempfile

import nncf
import numpy as np
import onnx
import onnxruntime

IMAGES, TEST_SEED, CALIBRATION_IMAGES, CALIBRATION_SEED = 20, 2, 64, 3


def digits(tool, count, seed, folder):
    prefix = os.path.join(folder, f"digits{seed}")
    subprocess.run([tool, str(count), str(seed), prefix], check=True)
    pixels = np.fromfile(prefix + "-images-idx3-ubyte", np.uint8)[16:].reshape(count, 1, 28, 28)
    return pixels.astype(np.float32) / np.float32(255)


def outputs(path, images):
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def main():
    tool, model, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        calibration = digits(tool, CALIBRATION_IMAGES, CALIBRATION_SEED, scratch)
        images = digits(tool, IMAGES, TEST_SEED, scratch)
        dataset = nncf.Dataset([{"input": image[None]} for image in calibration])
        quantized = nncf.quantize(onnx.load(model), dataset, subset_size=CALIBRATION_IMAGES)
        del quantized.graph.value_info[:]
        del quantized.metadata_props[:]
        for node in quantized.graph.node:
            node.doc_string = ""
        path = os.path.join(folder, "nncf.onnx")
        onnx.save(quantized, path)
        with open(path.replace(".onnx", ".txt"), "w") as file:
            for row in outputs(path, images):
                print(*(f"{value:.9g}" for value in row), file=file)


main()
