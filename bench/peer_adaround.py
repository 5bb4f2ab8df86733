"""AIMET's AdaRound beside qbound's: peer_adaround.py BUILD_DIR MODEL CALIBRATION NODE STEPS OUT

MODEL is a CIFAR-10 network, CALIBRATION a file of CIFAR binary records, of which both use the first 256. aimet-onnx rounds the
one layer NODE with STEPS steps (it recommends 10,000 to 15,000), qbound the whole network, both to 4 bits. CPU and wall
seconds go to OUT, one CSV row each. Needs a Python with aimet-onnx and numpy.
"""
import csv
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNT = 256


def read_images(path):
    records = np.fromfile(path, np.uint8).reshape(-1, 3073)[:COUNT, 1:]
    images = records.reshape(-1, 3, 32, 32).astype(np.float32) / 255
    return (images - np.array(MEAN, np.float32).reshape(1, 3, 1, 1)) / np.array(STD, np.float32).reshape(1, 3, 1, 1)


def time_qbound(build, model, calibration):
    with tempfile.TemporaryDirectory() as folder:
        before = os.times()
        subprocess.run([os.path.join(build, "qbound"), "quantize", model, "-o", os.path.join(folder, "out.onnx"),
                        "--bits", "4", "--scheme", "adaround", "--granularity", "channel", "--calibrate", calibration,
                        "--samples", str(COUNT), "--preprocess", "imagenet-norm"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, after.elapsed - before.elapsed


def time_aimet(model, images, node, steps):
    import aimet_onnx
    from aimet_onnx.adaround.adaround_weight import Adaround
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

    network = onnx.load(model)
    fold_all_batch_norms_to_weight(network)
    name = network.graph.input[0].name
    sim = aimet_onnx.QuantizationSimModel(network, param_type=aimet_onnx.int4, activation_type=aimet_onnx.int16,
                                          dummy_input={name: images[:1]})
    inputs = [{name: images[i : i + 32]} for i in range(0, len(images), 32)]
    cpu, wall = time.process_time(), time.monotonic()
    Adaround.apply_adaround(sim, inputs, num_iterations=steps, nodes_to_include=[node])
    return time.process_time() - cpu, time.monotonic() - wall


def main():
    build, model, calibration, node, steps, out = sys.argv[1:7]
    rows = [("qbound", "all", "", *time_qbound(build, model, calibration)),
            ("aimet-onnx", node, steps, *time_aimet(model, read_images(calibration), node, int(steps)))]
    with open(out, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("program", "layers", "steps", "cpu_s", "wall_s"))
        for *what, cpu, wall in rows:
            writer.writerow((*what, f"{cpu:.1f}", f"{wall:.1f}"))
    print(open(out).read(), end="")
    print(f"{steps} steps of aimet-onnx on one layer take {rows[1][3] / rows[0][3]:.2f} times the CPU time of qbound on all")


main()
