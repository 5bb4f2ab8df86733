#!/usr/bin/env python3
"""Writes tests/golden/run_networks.txt: outputs of real networks, computed by ONNX Runtime on a fixed input.

Development time only; needs numpy and onnxruntime. Element i of the input is a hash of i mapped to [-2, 2), see
hashed_input in tests/unit/run/test_run_networks.c. Usage: make_network_golden.py DATA_FOLDER OUT"""
import gzip
import sys

import numpy as np
import onnxruntime

MODELS = ["mnist/mlp3_mnist.onnx", "mnist/mlp11_mnist.onnx", "mnist/lenet_mnist.onnx",
          "cifar10/resnet8_mlperftiny_cifar10_bn.onnx", "cifar10/resnet20_cifar10_bn.onnx",
          "cifar10/resnet56_cifar10_bn.onnx", "tiny-imagenet/mobilenetv2_gluon_tinyimagenet_bn.onnx",
          "tiny-imagenet/resnet18_ktb_tinyimagenet_bn.onnx.gz", "imagenet/squeezenet11_imagenet.onnx",
          "imagenet/mobilenetv2_imagenet_folded.onnx", "imagenet/resnet18_pqf_imagenet_bn.onnx.gz",
          "imagenet/resnet50_pqf_imagenet_bn.onnx.gz"]


def hashed_input(shape):
    with np.errstate(over="ignore"):
        h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761)
        h ^= h >> np.uint32(15)
        h *= np.uint32(2246822519)
        h ^= h >> np.uint32(13)
    return ((h >> np.uint32(8)).astype(np.float32) / np.float32(2 ** 22) - np.float32(2)).reshape(shape)


with open(sys.argv[2], "w") as out:
    for name in MODELS:
        path = f"{sys.argv[1]}/{name}"
        data = gzip.open(path).read() if path.endswith(".gz") else open(path, "rb").read()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        shape = [d if isinstance(d, int) else 1 for d in session.get_inputs()[0].shape]
        y = session.run(None, {session.get_inputs()[0].name: hashed_input(shape)})[0].reshape(-1)
        out.write(f"{name} {y.size}\n" + " ".join("%.9g" % v for v in y) + "\n")
