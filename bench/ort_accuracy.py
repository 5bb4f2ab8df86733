#!/usr/bin/env python3
"""Top-1 of a quantized network measured by ONNX Runtime itself on ImageNet-shaped images, as one CSV row.

Usage: ort_accuracy.py NAME MODEL IMAGES [exact]
IMAGES holds labels.txt (`file index` a line). Pixels are cut to 224x224 around the centre, divided by 255, normalised
with the ImageNet mean and deviation (`--preprocess imagenet-224`). ONNX Runtime runs with all its optimizations. With
`exact` it also gets session.x64quantprecision=1: processors with AVX2 but without VNNI multiply unsigned activations
with signed 8-bit weights in pairs that saturate at 16 bits, and this setting avoids it.
Prints NAME,setting,images,correct,top1 in percent,ONNX Runtime's version."""
import gzip
import os
import sys

import numpy as np
import onnxruntime
from PIL import Image

name, model, folder = sys.argv[1:4]
exact = len(sys.argv) > 4 and sys.argv[4] == "exact"
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
data = gzip.open(model).read() if model.endswith(".gz") else open(model, "rb").read()
session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
feed = session.get_inputs()[0].name
mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def read(path):
    image = Image.open(path).convert("RGB")
    left, top = (round((side - 224) / 2) for side in image.size)  # half to even
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / np.float32(255)
    return ((pixels - mean) / deviation).transpose(2, 0, 1)


samples = [line.split() for line in open(os.path.join(folder, "labels.txt")) if line.strip()]
correct = 0
for first in range(0, len(samples), 16):
    some = samples[first : first + 16]
    x = np.stack([read(os.path.join(folder, file)) for file, _ in some])
    decisions = session.run(None, {feed: x})[0].argmax(axis=1)
    correct += int((decisions == [int(label) for _, label in some]).sum())
print("%s,%s,%d,%d,%.2f,%s" % (name, "exact" if exact else "default", len(samples), correct,
                               100 * correct / len(samples), onnxruntime.__version__))
