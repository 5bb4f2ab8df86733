#!/usr/bin/env python3
"""Written files in ONNX Runtime: does each load, and does it compute what the project's own executor computes?

Usage: interop.py BUILD_DIR/qbound [--models NAME,..] [--output FILE]
For every network of the test data ($QBOUND_DATA or ../shared/data) and of tests/fuzz/corpus_onnx, and every way of
preparing and quantizing it, the probe writes a file and runs it. The file is checked by onnx.checker, loaded and run in
ONNX Runtime, once as shipped and once without graph optimizations. Writes bench/results/interop.csv:
load        ok, or what failed
difference  largest |ONNX Runtime - executor| over the outputs, relative to the largest output
unoptimized the same without ONNX Runtime's graph optimizations
original    largest |written file - network as it was| in ONNX Runtime, relative to the largest output
Exit status 1 when a file does not load or the unoptimized difference exceeds 1e-4."""
import argparse
import csv
import glob
import gzip
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

here = os.path.dirname(os.path.abspath(__file__))
parser = argparse.ArgumentParser()
parser.add_argument("binary")
parser.add_argument("--models", default="")
parser.add_argument("--output", default=os.path.join(here, "results", "interop.csv"))
options = parser.parse_args()
build = os.path.dirname(os.path.abspath(options.binary))
data = os.environ.get("QBOUND_DATA", os.path.join(here, "..", "..", "shared", "data"))

SEEDS = ["residual", "windows", "activations", "old_forms", "shape_arithmetic", "quantized", "concat_identity", "factors"]
NETWORKS = ["cifar10/resnet20_cifar10_bn.onnx", "cifar10/resnet8_mlperftiny_cifar10_bn.onnx", "mnist/lenet_mnist.onnx",
            "imagenet/mobilenetv2_imagenet_folded.onnx", "imagenet/squeezenet11_imagenet.onnx",
            "imagenet/resnet18_pqf_imagenet_bn.onnx.gz", "tiny-imagenet/mobilenetv2_gluon_tinyimagenet_bn.onnx",
            "peers/acas/float/acasxu_1_1.onnx", "peers/qebverif/p2_q8.onnx", "peers/vnncomp/mnist-net_256x2.onnx",
            "peers/vnncomp/resnet_2b.onnx"]
STEPS = ["copy", "fold", "fold+equalize", "fold+w8", "fold+t8", "fold+w8+affine", "fold+w4", "fold+w4+affine",
         "fold+w2", "fold+w3+compat", "fold+w6+affine", "fold+w12", "fold+t16", "fold+equalize+w4", "w8", "w2"]


def read(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        return onnx.load_from_string(file.read())


def run(model, x, optimized=True):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not optimized:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    outputs = [session.run(None, {session.get_inputs()[0].name: sample[None]})[0].ravel() for sample in x]
    return np.stack(outputs)


def samples(model, count):
    constants = {tensor.name for tensor in model.graph.initializer}
    value = next(value for value in model.graph.input if value.name not in constants)
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
    return np.random.default_rng(0).random([count] + shape, dtype=np.float32)


def relative(a, b):
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def row(name, path, original, x, before, steps, folder):
    written, given, result = (os.path.join(folder, n) for n in ("written.onnx", "x.f32", "y.f32"))
    x.tofile(given)
    probe = subprocess.run([os.path.join(build, "bench", "interop_probe"), path, steps, written, given, result],
                           capture_output=True, text=True)
    if probe.returncode != 0:
        return dict(model=name, steps=steps, load="not written: " + probe.stderr.strip())
    opset, size = probe.stdout.split()
    entry = dict(model=name, steps=steps, opset=opset, size_bytes=size, load="ok")
    try:
        model = onnx.load(written)
        onnx.checker.check_model(model)
        after, plain = run(model, x), run(model, x, optimized=False)
    except Exception as problem:  # whatever the reader says is the result
        entry["load"] = " ".join(str(problem).split())[:200]
        return entry
    ours = np.fromfile(result, np.float32).reshape(after.shape)
    entry.update(difference="%.2e" % relative(after, ours), unoptimized="%.2e" % relative(plain, ours),
                 original="%.2e" % relative(after, before))
    return entry


def main():
    subprocess.run(["cmake", "--build", build, "--target", "interop_probe"], check=True, stdout=subprocess.DEVNULL)
    paths = [os.path.join(here, "..", "tests", "fuzz", "corpus_onnx", name + ".onnx") for name in SEEDS]
    paths += [os.path.join(data, name) for name in NETWORKS]
    wanted = [name for name in options.models.split(",") if name]
    rows, bad = [], 0
    for path in paths:
        name = os.path.basename(path).split(".")[0]
        if wanted and name not in wanted:
            continue
        if not os.path.exists(path):
            print("%s: not there" % name)
            continue
        original = read(path)
        x = samples(original, 2)
        before = run(original, x)
        with tempfile.TemporaryDirectory() as folder:
            for steps in STEPS:
                entry = row(name, path, original, x, before, steps, folder)
                rows.append(entry)
                failed = entry["load"] != "ok" or float(entry["unoptimized"]) > 1e-4
                bad += failed
                print("%-36s %-18s %s" % (name, steps, " ".join("%s=%s" % item for item in list(entry.items())[2:])),
                      "<-- look" if failed else "", flush=True)
    if not wanted:
        os.makedirs(os.path.dirname(options.output), exist_ok=True)
        with open(options.output, "w", newline="") as file:
            file.write("# onnxruntime %s, onnx %s\n" % (onnxruntime.__version__, onnx.__version__))
            columns = ["model", "steps", "opset", "size_bytes", "load", "difference", "unoptimized", "original"]
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    print("%d files, %d to look at" % (len(rows), bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
