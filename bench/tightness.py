"""The proved bounds of real networks at 8 bits per tensor over all normalised images, beside published figures.

tightness.py QBOUND DATA [METHODS] runs `qbound bound` on each network and prints CSV: the decimal logarithm of each
bound, `-` where a method does not apply, and the figure to compare with. METHODS as for --method, default all.
"""
import json
import subprocess
import sys

# network, preprocessing, {reference: log10}: published chain theorem, prototypes of other domains
NETWORKS = [
    ("imagenet/resnet18_pqf_imagenet_bn.onnx.gz", "imagenet-norm", {"chain": 37.1, "layerwise": 32.0, "l2": 17.9}),
    ("cifar10/resnet20_cifar10_bn.onnx", "imagenet-norm", {"chain": 25.6, "elementwise": 20.8, "l2": 12.3}),
    ("cifar10/resnet56_cifar10_bn.onnx", "imagenet-norm", {"chain": 63.9, "elementwise": 49.2, "l2": 25.9}),
    ("imagenet/mobilenetv2_imagenet_folded.onnx", "imagenet-norm", {"chain": 65.5, "caps": 2.6, "l2": 3.4}),
    ("mnist/mlp2_mnist.onnx", "unit", {}),
    ("mnist/mlp3_mnist.onnx", "unit", {}),
    ("mnist/mlp5_mnist.onnx", "unit", {}),
    ("mnist/mlp7_mnist.onnx", "unit", {}),
    ("mnist/mlp9_mnist.onnx", "unit", {}),
    ("mnist/mlp11_mnist.onnx", "unit", {}),
]
METHODS = ["cnn", "chain_unsummed", "layerwise", "elementwise", "two_stage", "interval", "spectral", "product", "best"]


def log10_of(bounds, name):
    bound = bounds.get(name, {"applies": False})
    return "%.3f" % bound["log10"] if bound["applies"] else "-"


def main():
    qbound, data = sys.argv[1:3]
    methods = sys.argv[3] if len(sys.argv) > 3 else "all"
    print(",".join(["network", *METHODS, "reference"]))
    for path, preprocess, reference in NETWORKS:
        command = [qbound, "bound", f"{data}/{path}", "--bits", "8", "--preprocess", preprocess]
        out = subprocess.run([*command, "--method", methods, "--json"], check=True, capture_output=True).stdout
        bounds = json.loads(out)["rows"][0]["bounds"]
        values = [log10_of(bounds, name) for name in METHODS]
        note = " ".join(f"{name} {value}" for name, value in reference.items())
        print(",".join([path.split("/")[1].split(".")[0], *values, note]), flush=True)


if __name__ == "__main__":
    main()
