#!/usr/bin/env python3
"""Trains the demo network on generated digits and exports it with BatchNorm kept.

    cmake --build --preset release --target qbound_digits
    python3 tools/train_demo.py build/release/qbound_digits examples/demo/digits.onnx

Needs torch, onnx and numpy; only whoever changes the example needs them. Training images come from seed 1, test images
from seed 2. One run takes about five minutes on two cores. It is seeded, but another version of torch or another number
of threads sums in another order and gives another network of the same quality.
"""
import argparse
import os
import subprocess
import tempfile
import time

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

TRAIN_SEED, TEST_SEED = 1, 2


def generate(tool, count, seed):
    """(count, 1, 28, 28) float32 in [0, 1] and (count) int64 labels from the C generator."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "digits")
        subprocess.run([tool, str(count), str(seed), prefix], check=True)
        images = np.fromfile(prefix + "-images-idx3-ubyte", np.uint8)[16:].reshape(count, 1, 28, 28)
        labels = np.fromfile(prefix + "-labels-idx1-ubyte", np.uint8)[8:]
    return torch.from_numpy(images.astype(np.float32) / np.float32(255)), torch.from_numpy(labels.astype(np.int64))


def convolution(inputs, outputs, kernel, stride=1, groups=1):
    """Convolution without bias, then BatchNorm."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """The ResNet basic block, with a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Sequential(*convolution(inputs, outputs, 3, stride), nn.ReLU())
        self.second = nn.Sequential(*convolution(outputs, outputs, 3))
        self.shortcut = nn.Sequential(*convolution(inputs, outputs, 1, stride))

    def forward(self, x):
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """The MobileNetV2 block: expand, depthwise, project; ReLU6 after the first two."""

    def __init__(self, inputs, outputs, stride, expansion=3):
        super().__init__()
        wide = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.body = nn.Sequential(*convolution(inputs, wide, 1), nn.ReLU6(),
                                  *convolution(wide, wide, 3, stride, groups=wide), nn.ReLU6(),
                                  *convolution(wide, outputs, 1))

    def forward(self, x):
        return x + self.body(x) if self.skip else self.body(x)


def build():
    return nn.Sequential(
        *convolution(1, 16, 3), nn.ReLU(),
        Residual(16, 32, 2),
        InvertedResidual(32, 32, 1),
        InvertedResidual(32, 48, 2),
        InvertedResidual(48, 48, 1),
        *convolution(48, 96, 1), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500)))
    return correct / len(labels)


def train(model, images, labels, test, epochs, batch=100):
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=5e-4)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    started = time.time()
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(labels))[:len(labels) // batch * batch].split(batch):
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total * batch / len(labels):.4f}, "
              f"test {accuracy(model, *test):.4f}, {time.time() - started:.0f} s", flush=True)


def export(model, path):
    """Opset 13 with BatchNorm as nodes of its own and a free batch size."""
    model.eval()
    torch.onnx.export(model, torch.zeros(1, 1, 28, 28), path, dynamo=False, opset_version=13,
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                      input_names=["input"], output_names=["output"],
                      dynamic_axes={"input": {0: "N"}, "output": {0: "N"}})
    tidy(path)


def tidy(path):
    """The exporter writes equal parameters once, with Identity nodes; every parameter gets its own tensor again."""
    model = onnx.load(path)
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in tensors]:
        copy = graph.initializer.add()
        copy.CopyFrom(tensors[node.input[0]])
        copy.name = node.output[0]
        graph.node.remove(node)
    graph.name = "digits"
    model.doc_string = "Digit classifier: input (N,1,28,28) in [0,1], output (N,10)"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", help="the qbound_digits executable")
    parser.add_argument("output", help="the ONNX file to write")
    parser.add_argument("--images", type=int, default=30000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = build()
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    test = generate(options.tool, 10000, TEST_SEED)
    train(model, *generate(options.tool, options.images, TRAIN_SEED), test, options.epochs)
    export(model, options.output)
    print(f"{options.output}: {os.path.getsize(options.output)} bytes, test accuracy {accuracy(model, *test):.4f}")


if __name__ == "__main__":
    main()
