#!/usr/bin/env python3
"""Writes handler_tests/goldens/birefnet/pictures.safetensors: the steps around BiRefNet, done by Pillow and torch.

    goldens-venv/bin/python scripts/make_cutout_golden.py handler_tests/goldens/birefnet

The environment is that of make_goldens.py. torchvision is not needed: its resize of a Pillow image is Pillow's, ToTensor and
Normalize are three operations in f32, ToPILImage is `mul(255).byte()`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

WIDTH, HEIGHT, SIZE = 101, 67, 64


def box(x, edge):
    before, after = (edge - 1) // 2, edge // 2
    return F.avg_pool2d(F.pad(x, (before, after, before, after), mode="replicate"), edge, stride=1)


def fuse(image, foreground, background, alpha, edge):
    opacity = box(alpha, edge)
    fore = box(foreground * alpha, edge) / (opacity + 1e-5)
    back = box(background * (1 - alpha), edge) / ((1 - opacity) + 1e-5)
    return (fore + alpha * (image - alpha * fore - (1 - alpha) * back)).clamp(0, 1), back


def main(folder):
    random = np.random.default_rng(20)
    ramp = np.linspace(0, 200, WIDTH)[None, :, None] + np.linspace(0, 30, HEIGHT)[:, None, None]
    pixels = (ramp + random.integers(0, 26, (HEIGHT, WIDTH, 3))).astype(np.uint8)
    picture = Image.fromarray(pixels)

    square = np.array(picture.resize((SIZE, SIZE), Image.BILINEAR))
    x = torch.from_numpy(square).permute(2, 0, 1).contiguous().float().div(255)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = x.sub(mean).div(deviation)

    logits = torch.from_numpy(random.normal(0, 3, (1, 1, SIZE, SIZE)).astype(np.float32))
    mask = Image.fromarray(logits.sigmoid()[0, 0].mul(255).byte().numpy()).resize(picture.size)

    # A mask with soft edges, as nets make them.
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    distance = np.hypot(rows - HEIGHT / 2, (columns - WIDTH / 2) * 0.7)
    soft = (np.clip((24 - distance) / 8 + 0.5, 0, 1) * 255).astype(np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    alpha = torch.from_numpy(soft)[None, None].float() / 255
    foreground, background = fuse(image, image, image, alpha, 90)
    refined = fuse(image, foreground, background, alpha, 6)[0]

    tensors = {
        "picture": torch.from_numpy(pixels),
        "tensor": x[None],
        "logits": logits,
        "mask": torch.from_numpy(np.array(mask)),
        "soft": torch.from_numpy(soft),
        "refined": refined.mul(255).byte()[0].permute(1, 2, 0).contiguous(),
    }
    for name, source, target in (("up", (9, 12), (31, 40)), ("down", (33, 21), (16, 10)), ("line", (1, 7), (5, 1))):
        values = torch.from_numpy(random.normal(0, 1, (2, 3, *source)).astype(np.float32))
        tensors[f"resize.{name}.x"] = values
        tensors[f"resize.{name}.y"] = F.interpolate(values, target, mode="bilinear", align_corners=True)
    save_file(tensors, Path(folder) / "pictures.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
