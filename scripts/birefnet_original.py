"""Builds the original BiRefNet from a checkout of its repository (github.com/ZhengPeng7/BiRefNet, MIT; checked at 25cb930).

The original is the reference that our net is held against; its code is not copied into this project. Needs torch,
torchvision (deformable convolution) and timm. What inference does not use of the rest (kornia, einops, the data set) is
replaced by a few lines, so that it runs on machines without those packages.
"""

import math
import sys
import types
from pathlib import Path

import torch

# Sizes of the published net: Swin v1 L. `config.json` of a checkpoint may override them (tiny checkpoints do).
PUBLISHED = {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12}


STUBBED = ("kornia", "einops", "dataset", "huggingface_hub")


def _rearrange(x, pattern, hg, wg):
    assert pattern == "b c (hg h) (wg w) -> b (c hg wg) h w", pattern
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, hg, height // hg, wg, width // wg)
    return x.permute(0, 1, 2, 4, 3, 5).reshape(batch, channels * hg * wg, height // hg, width // wg)


def _stub(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


class _Hub:
    """Stands in for the Hub's mixin, whose keywords it swallows."""

    def __init_subclass__(cls, **_):
        pass


def build(checkout, backbone=None):
    """The net in evaluation mode, its weights unset, on torch's default device.

    `backbone`: `embed_dim`, `depths`, `num_heads`, `window_size`; default those of the published net.
    """
    checkout = Path(checkout)
    if not (checkout / "models/birefnet.py").is_file():
        raise SystemExit(f"{checkout}: expected a checkout of BiRefNet's repository (models/birefnet.py is missing)")
    sizes = dict(backbone or PUBLISHED)
    before = dict(sys.modules)
    for name in [name for name in sys.modules if name == "config" or name.split(".")[0] == "models"]:
        del sys.modules[name]
    _stub("kornia")
    _stub("kornia.filters", laplacian=None)
    _stub("einops", rearrange=_rearrange)
    _stub("dataset", class_labels_TR_sorted=[])
    _stub("huggingface_hub", PyTorchModelHubMixin=_Hub)
    sys.path.insert(0, str(checkout))
    try:
        import config

        published = config.Config.__init__

        def with_sizes(self):
            published(self)
            widths = [2 * (sizes["embed_dim"] << stage) for stage in (3, 2, 1, 0)]
            self.lateral_channels_in_collection = widths
            self.cxt = widths[1:][::-1][-self.cxt_num:]

        config.Config.__init__ = with_sizes
        from models.backbones.swin_v1 import SwinTransformer

        # Its own module imports every other backbone, and their packages.
        _stub("models.backbones.build_backbone", build_backbone=lambda name, pretrained: SwinTransformer(**sizes))
        from models.birefnet import BiRefNet
        from models.modules.deform_conv import DeformableConv2d

        net = BiRefNet(bb_pretrained=False).eval().requires_grad_(False)
        net.DeformableConv2d = DeformableConv2d
        return net
    finally:
        sys.path.remove(str(checkout))
        # Other libraries want the real ones.
        for name in [name for name in sys.modules if name.split(".")[0] in (*STUBBED, "config", "models")]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})


def training_only(key):
    """Whether inference never reads this entry of the state dict."""
    return key.startswith(("decoder.conv_ms_spvn_", "decoder.gdt_convs_pred_")) or key.endswith(
        ("num_batches_tracked", "relative_position_index")
    )


def recipe(key, shape):
    """(kind, scale, shift) of random weights: activations near 1, offsets of deformable convolutions of a pixel or two.

    `randn` or `abs_randn` (its absolute value) is scaled, then shifted. What starts at 0 or 1 in training is neither here.
    """
    if key.endswith("running_var"):
        return "abs_randn", 0.25, 0.75
    if key.endswith("running_mean"):
        return "randn", 0.1, 0.0
    if key.endswith("relative_position_bias_table"):
        return "randn", 0.5, 0.0
    if len(shape) == 1:
        return ("randn", 0.1, 1.0) if key.endswith("weight") else ("randn", 0.05, 0.0)
    return "randn", (1.5 if "offset_conv" in key else 1.0) / math.sqrt(math.prod(shape[1:])), 0.0


@torch.no_grad()
def features(net, x):
    """The four feature maps of both views; the last one with the other three beside it."""
    return net.forward_enc(x)[0]


@torch.no_grad()
def logits(net, x):
    return net(x)[-1]
