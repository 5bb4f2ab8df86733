#!/usr/bin/env python3
"""Writes tests/golden/demo_outputs.txt: what ONNX Runtime computes for the demo network on test images 0 to 19.

    python3 tools/demo_golden.py build/release/qbound_digits examples/demo/digits.onnx tests/golden/demo_outputs.txt

One line an image: its label and the ten outputs. Needs onnxruntime and numpy; tests only read the result.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

IMAGES, TEST_SEED = 20, 2
tool, model, output = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    prefix = os.path.join(folder, "digits")
    subprocess.run([tool, str(IMAGES), str(TEST_SEED), prefix], check=True)
    pixels = np.fromfile(prefix + "-images-idx3-ubyte", np.uint8)[16:].reshape(IMAGES, 1, 28, 28)
    labels = np.fromfile(prefix + "-labels-idx1-ubyte", np.uint8)[8:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
outputs = session.run(None, {"input": pixels.astype(np.float32) / np.float32(255)})[0]
with open(output, "w") as file:
    for label, row in zip(labels, outputs):
        print(label, *(f"{value:.9g}" for value in row), file=file)
