#!/usr/bin/env python3
"""Writes tests/golden/data: small image files, and SHA-256 of preprocessed tensors as torchvision computes them.

usage: tools/make_data_goldens.py [SHARED_DATA_FOLDER]

Needs numpy, Pillow, torch and torchvision. Without the folder the lines about its files are kept as they are.
Each line of preprocess.txt: place (fixture or shared), path, sample, preprocessing, shape, label, hash of the float32
values in C order, separated by tabs.
"""
import gzip
import hashlib
import io
import pathlib
import struct
import sys
import zlib

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "data"
IMAGENET = dict(scale=True, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
PRESETS = {
    "imagenet": dict(resize=256, crop=224, **IMAGENET),
    "imagenet-224": dict(crop=224, **IMAGENET),
    "imagenet-norm": IMAGENET,
    "unit": dict(scale=True),
    "raw": {},
    "resize=128:crop=128:scale=255:mean=0.485,0.456,0.406:std=0.229,0.224,0.225": dict(resize=128, crop=128, **IMAGENET),
    "resize=11:crop=9:scale=255": dict(resize=11, crop=9, scale=True),
    "resize=40": dict(resize=40),
    "crop=32:scale=255:mean=0.5:std=0.25": dict(crop=32, scale=True, mean=[0.5] * 3, std=[0.25] * 3),
}


def resize(image, size):
    """transforms.Resize(size) with the horizontal pass first, as Pillow before 13 always did it. Pillow 13 begins with
    the vertical pass where that is cheaper, which moves some pixels of tall images by one step of 255."""
    width, height = transforms.Resize(size)(Image.new("1", image.size)).size
    return image.resize((width, image.height), Image.BILINEAR).resize((width, height), Image.BILINEAR)


def preprocess(image, name):
    """A PIL image to the float32 array (C,H,W) that torchvision gives."""
    recipe = PRESETS[name]
    if "resize" in recipe:
        image = resize(image, recipe["resize"])
    if "crop" in recipe:
        image = transforms.CenterCrop(recipe["crop"])(image)
    if not recipe.get("scale"):
        array = np.asarray(image, np.float32)
        return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]
    tensor = transforms.ToTensor()(image)
    if "mean" in recipe:
        channels = tensor.shape[0]
        tensor = transforms.Normalize(recipe["mean"][:channels], recipe["std"][:channels])(tensor)
    return tensor.numpy()


def line(place, path, index, name, array, label):
    array = np.ascontiguousarray(array, "<f4") + np.float32(0)
    shape = "x".join(map(str, array.shape))
    return "\t".join([place, path, str(index), name, shape, str(label), hashlib.sha256(array.tobytes()).hexdigest()])


# ---------------------------------------------------------------------------------------------------- fixture files


def picture(height, width, seed):
    """Smooth colours with a little noise and one hard edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 120 * np.sin(0.21 * x + 0.13 * y * (c + 1) + c) for c in range(3)]
    array = np.stack(planes, -1) + rng.normal(0, 6, (height, width, 3))
    array[height // 2:, : width // 3] = (250, 20, 5)
    return np.clip(np.round(array), 0, 255).astype(np.uint8)


def png(colour, depth, rows, width, interlaced=False, extra=b""):
    """A PNG from packed rows; with `interlaced`, rows is a function from (x0, y0, dx, dy) to the rows of that pass."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    height = len(rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        data = b"".join(b"\0" + row[x0::dx].tobytes() for x0, y0, dx, dy in passes for row in rows[y0::dy]
                        if row[x0::dx].size)
    else:
        data = b"".join(b"\0" + row.tobytes() for row in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data, 9)) +
            chunk(b"IEND", b""))


def transparency(data):
    return struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))


def fixtures():
    """Name -> bytes of every fixture image."""
    rgb = picture(17, 25, 1)
    image = Image.fromarray(rgb)
    grey = image.convert("L")
    files = {}

    def save(name, picture_, **options):
        stream = io.BytesIO()
        picture_.save(stream, **options)
        files[name] = stream.getvalue()

    save("420.jpg", image, format="JPEG", quality=90, subsampling=2)
    save("422.jpg", image, format="JPEG", quality=80, subsampling=1)
    save("444.jpeg", image, format="JPEG", quality=70, subsampling=0)
    save("progressive.jpg", image, format="JPEG", quality=85, progressive=True, optimize=True)
    save("grey.jpg", grey, format="JPEG", quality=85)
    save("tall.jpg", Image.fromarray(picture(33, 14, 2)), format="JPEG", quality=85)
    save("cmyk.jpg", image.convert("CMYK"), format="JPEG", quality=60)
    save("rgb.png", image, format="PNG", optimize=True)
    save("grey.png", grey, format="PNG", optimize=True)
    save("palette.png", image.quantize(16), format="PNG", optimize=True)
    save("bits1.png", grey.convert("1"), format="PNG")
    alpha = image.copy()
    alpha.putalpha(grey)
    save("alpha.png", alpha, format="PNG", optimize=True)
    save("grey_alpha.png", alpha.convert("LA"), format="PNG", optimize=True)
    wide = (rgb[:9, :11].astype(np.uint16) * 256 + np.arange(11, dtype=np.uint16)[None, :, None] * 23)
    files["rgb16.png"] = png(2, 16, wide.astype(">u2"), 11)
    files["interlaced.png"] = png(2, 8, rgb, 25, interlaced=True)
    files["transparent.png"] = png(2, 8, rgb[:5, :6], 6, extra=transparency(struct.pack(">HHH", 250, 20, 5)))
    bits2 = np.array([[0b00011011, 0b11100100], [0b11111111, 0b00000000]], np.uint8)
    files["bits2.png"] = png(0, 2, bits2, 8)
    return files


# The one difference from Pillow: it clips 16-bit greyscale to 255 where qbound keeps the high byte, as for RGB.
def fixture_lines(files):
    for name in sorted(files):
        if name == "cmyk.jpg":
            continue
        image = Image.open(io.BytesIO(files[name])).convert("RGB")
        for recipe in ["raw", "unit", "imagenet-norm", "resize=11:crop=9:scale=255", "resize=40",
                       "crop=32:scale=255:mean=0.5:std=0.25"]:
            yield line("fixture", name, 0, recipe, preprocess(image, recipe), -1)


# ------------------------------------------------------------------------------------------------------- shared data


def folder_lines(shared, folder, recipe, wanted):
    entries = [row.rsplit(maxsplit=1) for row in (shared / folder / "labels.txt").read_text().splitlines()]
    greys = [i for i, (name, _) in enumerate(entries) if Image.open(shared / folder / name).mode == "L"][:3]
    for i in sorted(set(wanted + greys)):
        image = Image.open(shared / folder / entries[i][0]).convert("RGB")
        yield line("shared", folder, i, recipe, preprocess(image, recipe), entries[i][1])


def shared_lines(shared):
    some = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377]
    yield from folder_lines(shared, "imagenet/validation", "imagenet-224", some)
    yield from folder_lines(shared, "imagenet/validation", "imagenet", some)
    yield from folder_lines(shared, "imagenet/calibration", "imagenet-224", [0, 399])
    yield from folder_lines(shared, "tiny-imagenet/validation",
                            "resize=128:crop=128:scale=255:mean=0.485,0.456,0.406:std=0.229,0.224,0.225", some)
    records = np.fromfile(shared / "cifar10/test_1000.bin", np.uint8).reshape(-1, 3073)
    for i in [0, 1, 999]:
        image = Image.fromarray(records[i, 1:].reshape(3, 32, 32).transpose(1, 2, 0))
        for recipe in ["raw", "imagenet-norm", "resize=40"]:
            yield line("shared", "cifar10/test_1000.bin", i, recipe, preprocess(image, recipe), records[i, 0])
    pixels = gzip.open(shared / "mnist/t10k-images-idx3-ubyte.gz").read()[16:]
    labels = gzip.open(shared / "mnist/t10k-labels-idx1-ubyte.gz").read()[8:]
    for path in ["mnist/t10k-images-idx3-ubyte.gz", "mnist"]:
        for i in [0, 7, 9999]:
            image = Image.frombytes("L", (28, 28), pixels[784 * i:784 * (i + 1)])
            for recipe in ["raw", "unit", "resize=40"]:
                yield line("shared", path, i, recipe, preprocess(image, recipe), labels[i])


def main():
    torch.set_num_threads(1)
    HERE.mkdir(parents=True, exist_ok=True)
    files = fixtures()
    for name, data in files.items():
        (HERE / name).write_bytes(data)
    target = HERE / "preprocess.txt"
    lines = list(fixture_lines(files))
    if len(sys.argv) > 1:
        lines += shared_lines(pathlib.Path(sys.argv[1]))
    elif target.exists():
        lines += [row for row in target.read_text().splitlines() if row.startswith("shared\t")]
    target.write_text("\n".join(lines) + "\n")
    print(len(lines), "lines,", sum(map(len, files.values())), "bytes of images")


if __name__ == "__main__":
    main()
