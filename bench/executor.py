#!/usr/bin/env python3
"""The executor beside ONNX Runtime and beside the machine's peak, in one session: rounds of a short run of each, turn
about, so that both meet the same disturbances. Writes bench/results/executor.csv.

Usage: executor.py BUILD_DIR [--rounds N] [--seconds S] [--threads 1,2] [--output FILE]
Needs the models ($QBOUND_DATA or ../shared/data) and a Python with numpy and onnxruntime (this one).
Rates are images per second: `median` is the median over rounds of each round's median call, `best` the fastest call
of all rounds. Where the machine is shared with other work, `best` says what the code can do and `median` what it got.
peak_fraction: 2 GMAC best / GFLOP/s of fused multiply-adds with as many threads."""
import argparse
import csv
import os
import statistics
import subprocess
import sys

MODELS = [("resnet18", "imagenet/resnet18_pqf_imagenet_bn.onnx.gz"),
          ("mobilenetv2", "imagenet/mobilenetv2_imagenet_folded.onnx")]
here = os.path.dirname(os.path.abspath(__file__))

parser = argparse.ArgumentParser()
parser.add_argument("build")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--seconds", type=float, default=2.0)
parser.add_argument("--threads", default="1,%d" % (os.cpu_count() or 1))
parser.add_argument("--output", default=os.path.join(here, "results", "executor.csv"))
options = parser.parse_args()
data = os.environ.get("QBOUND_DATA", os.path.join(here, "..", "..", "shared", "data"))


def numbers(*command):
    text = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
    return [float(n) for n in text.split()]


def compare(name, path, batch, threads, peak):
    ours, theirs = [], []
    for _ in range(options.rounds):
        arguments = (path, batch, threads, options.seconds)
        ours.append(numbers(os.path.join(options.build, "bench", "bench_run"), *arguments))
        theirs.append(numbers(sys.executable, os.path.join(here, "ort_run.py"), *arguments))
    middle = [statistics.median(r[0] for r in runs) for runs in (ours, theirs)]
    best = [max(r[1] for r in runs) for runs in (ours, theirs)]
    fraction = 2.0 * ours[0][2] * best[0] / peak
    return [name, batch, threads, "%.2f" % best[0], "%.2f" % best[1], "%.3f" % (best[0] / best[1]), "%.2f" % middle[0],
            "%.2f" % middle[1], "%.3f" % (middle[0] / middle[1]), "%.1f" % peak, "%.3f" % fraction,
            "%.2f" % os.getloadavg()[0]]


rows = []
for threads in sorted({int(t) for t in options.threads.split(",")}):
    peak = numbers(os.path.join(options.build, "bench", "bench_peak"), threads)[0]
    for name, model in MODELS:
        path = os.path.join(data, model)
        if not os.path.exists(path):
            print(f"skipped: {path} is missing", file=sys.stderr)
            continue
        for batch in (1, 16):
            rows.append(compare(name, path, batch, threads, peak))
            print(*rows[-1], flush=True)
if not rows:
    sys.exit(77)
os.makedirs(os.path.dirname(options.output), exist_ok=True)
with open(options.output, "w", newline="") as f:
    writer = csv.writer(f, lineterminator="\n")
    writer.writerow(["model", "batch", "threads", "qbound_best", "onnxruntime_best", "ratio_best", "qbound_median",
                     "onnxruntime_median", "ratio_median", "peak_gflops", "peak_fraction", "load_average"])
    writer.writerows(rows)
