#!/usr/bin/env python3
"""ONNX Runtime's speed on one model, measured as bench_run.c measures ours.

Usage: ort_run.py MODEL BATCH THREADS SECONDS; prints images per second by the median and by the fastest call of a
run of at least SECONDS after warming up. Needs numpy and onnxruntime."""
import gzip
import sys
import time

import numpy as np
import onnxruntime

model, batch, threads, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
data = gzip.open(model).read() if model.endswith(".gz") else open(model, "rb").read()
session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
shape = [batch] + [int(d) for d in session.get_inputs()[0].shape[1:]]
x = np.random.default_rng(1).uniform(-2, 2, size=shape).astype(np.float32)
feed = {session.get_inputs()[0].name: x}
for _ in range(3):
    session.run(None, feed)
times = []
start = time.perf_counter()
while time.perf_counter() - start < seconds:
    begin = time.perf_counter()
    session.run(None, feed)
    times.append(time.perf_counter() - begin)
print("%.3f %.3f" % (batch / sorted(times)[len(times) // 2], batch / min(times)))
