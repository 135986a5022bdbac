#!/usr/bin/env python3
"""Writes handler_tests/goldens/birefnet: BiRefNet's own code on a tiny encoder, and the steps around the net.

    goldens-venv/bin/pip install --no-deps torchvision==0.29.2 timm==1.0.31
    goldens-venv/bin/python scripts/make_goldens_birefnet.py CHECKOUT handler_tests/goldens/birefnet

The environment is that of make_goldens.py; CHECKOUT is BiRefNet's repository (see birefnet_original.py). torchvision's resize
of a Pillow image is Pillow's, ToTensor and Normalize are three operations in f32, ToPILImage is `mul(255).byte()`.
"""

import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image

import birefnet_original as original
import make_goldens
from make_goldens import Folder, draw

TINY = {"embed_dim": 12, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 12}
SIZE = 64
WIDTH, HEIGHT = 101, 67


def component(folder, name, net, classname, config, salt=""):
    """Registers a net under `config` and gives it the described weights. `salt` tells two nets' equal keys apart."""
    weights, state = [], {}
    for key, tensor in net.state_dict().items():
        if original.training_only(key):
            continue
        kind, scale, shift = original.recipe(key, tensor.shape)
        seed = zlib.crc32((salt + key).encode())
        drawn = draw(tensor.shape, seed)
        state[key] = (drawn.abs() if kind == "abs_randn" else drawn) * scale + shift
        entry = {"key": key, "shape": list(tensor.shape), "seed": seed, "scale": scale, "shift": shift}
        weights.append(entry if kind == "randn" else entry | {"kind": kind})
    missing = net.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all(map(original.training_only, missing.missing_keys)), missing
    folder.components[name] = {"class": classname, "config": config, "weights": weights}


def box(x, edge):
    before, after = (edge - 1) // 2, edge // 2
    return F.avg_pool2d(F.pad(x, (before, after, before, after), mode="replicate"), edge, stride=1)


def fuse(image, foreground, background, alpha, edge):
    opacity = box(alpha, edge)
    fore = box(foreground * alpha, edge) / (opacity + 1e-5)
    back = box(background * (1 - alpha), edge) / ((1 - opacity) + 1e-5)
    return (fore + alpha * (image - alpha * fore - (1 - alpha) * back)).clamp(0, 1), back


def to_input(picture):
    square = np.array(picture.resize((SIZE, SIZE), Image.BILINEAR))
    x = torch.from_numpy(square).permute(2, 0, 1).contiguous().float().div(255)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return x.sub(mean).div(deviation)[None]


def to_mask(logits, size):
    return np.array(Image.fromarray(logits.sigmoid()[0, 0].mul(255).byte().numpy()).resize(size))


def main(checkout, target):
    make_goldens.VERSIONS |= {"torchvision": torchvision.__version__.split("+")[0], "BiRefNet": "25cb930"}
    folder = Folder(target)
    net = original.build(checkout, TINY)
    component(folder, "birefnet", net, "BiRefNet", {"backbone": TINY, "size": SIZE})

    for name, (height, width), seed in (("wide", (128, 160), 1128), ("square", (256, 256), 1256)):
        drawn_by = {"shape": [1, 3, height, width], "seed": seed}
        x = draw(**drawn_by)
        expected = {}
        if name == "wide":
            expected |= {f"x{index}": feature for index, feature in enumerate(original.features(net, x), 1)}
        expected["logits"] = original.logits(net, x)
        assert expected["logits"].std() > 0.1, "flat logits prove nothing"
        folder.case(name, "birefnet", {"net": "birefnet"}, {}, {"x": drawn_by}, expected)

    layer = net.DeformableConv2d(8, 6, kernel_size=7, padding=3).eval().requires_grad_(False)
    config = {"inputs": 8, "outputs": 6, "kernel": 7}
    component(folder, "deformable", layer, "DeformableConv2d", config, "deformable/")
    drawn_by = {"shape": [2, 8, 13, 17], "seed": 1317}
    x = draw(**drawn_by)
    assert layer.offset_conv(x).abs().max() > 3, "offsets that stay inside prove nothing"
    folder.case("deformable", "deformable_convolution", {"layer": "deformable"}, {}, {"x": drawn_by}, {"y": layer(x)})

    random = np.random.default_rng(20)
    ramp = np.linspace(0, 200, WIDTH)[None, :, None] + np.linspace(0, 30, HEIGHT)[:, None, None]
    pixels = (ramp + random.integers(0, 26, (HEIGHT, WIDTH, 3))).astype(np.uint8)
    picture = Image.fromarray(pixels)
    x = to_input(picture)
    folder.case("picture", "birefnet_input", {}, {"size": SIZE}, {"picture": pixels}, {"tensor": x})
    mask = to_mask(original.logits(net, x), picture.size)
    assert mask.std() > 5, "a flat mask proves nothing"
    folder.case("cut_out", "birefnet_mask", {"net": "birefnet"}, {}, {"picture": pixels}, {"image": mask})

    logits = torch.from_numpy(random.normal(0, 3, (1, 1, SIZE, SIZE)).astype(np.float32))
    size = {"width": WIDTH, "height": HEIGHT}
    folder.case("mask", "birefnet_mask_of_logits", {}, size, {"logits": logits}, {"image": to_mask(logits, picture.size)})

    # A mask with soft edges, as nets make them.
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    distance = np.hypot(rows - HEIGHT / 2, (columns - WIDTH / 2) * 0.7)
    soft = (np.clip((24 - distance) / 8 + 0.5, 0, 1) * 255).astype(np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    alpha = torch.from_numpy(soft)[None, None].float() / 255
    foreground, background = fuse(image, image, image, alpha, 90)
    refined = fuse(image, foreground, background, alpha, 6)[0].mul(255).byte()[0].permute(1, 2, 0)
    folder.case("refined", "foreground", {}, {}, {"picture": pixels, "alpha": soft}, {"image": refined})

    for name, source, (height, width) in (("up", (9, 12), (31, 40)), ("down", (33, 21), (16, 10)), ("line", (1, 7), (5, 1))):
        values = torch.from_numpy(random.normal(0, 1, (2, 3, *source)).astype(np.float32))
        resized = F.interpolate(values, (height, width), mode="bilinear", align_corners=True)
        parameters = {"width": width, "height": height}
        folder.case(f"resize_{name}", "aligned_resize", {}, parameters, {"x": values}, {"y": resized})
    folder.write()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
