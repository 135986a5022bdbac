#!/usr/bin/env python3
"""Writes a checkpoint of FLUX.1-dev's full size with random weights, in diffusers' layout.

    python3 scripts/gpu/make_full_size_flux.py /tmp/flux-random [--tokenizers FOLDER] [--device cuda]

Every shape and file is the real model's (34 GB: transformer 23.8, T5-XXL 9.5, CLIP-L, VAE, all bf16), so that loaders,
memory and speed can be measured without the licensed weights. The numbers are normal with the scales that keep
activations of order one through 57 blocks; they are never zero, which would cost a GPU less power and look faster.
Needs torch, safetensors, diffusers and transformers; a minute on a GPU machine, mostly the disk's.
`--tokenizers` is a folder with `clip/` and `t5/`, copied to `tokenizer/` and `tokenizer_2/`; without it the checkpoint
takes token ids only.
"""

import argparse
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

SHARD_BYTES = 5_000_000_000

FLUX = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 16, "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 1024, "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
    "force_upcast": True, "mid_block_add_attention": True,
}
CLIP = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "layer_norm_eps": 1e-5,
}
T5 = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "is_encoder_decoder": True,
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0,
    "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def scale_and_shift(key, shape):
    """Standard deviation and mean of a tensor's numbers."""
    fan_in = 1
    for side in shape[1:]:
        fan_in *= side
    unit = fan_in**-0.5
    if len(shape) == 1:
        norm = "norm" in key and key.endswith("weight")
        return (0.1, 1.0) if norm else (0.02, 0.0)
    if "norm" in key and ".linear." in key:  # adaLN: shifts, scales and gates of a few tenths
        return 0.3 * unit, 0.0
    if key.endswith("SelfAttention.q.weight"):  # T5 does not divide its scores by the root of the head's 64 channels
        return unit / 8, 0.0
    if "relative_attention_bias" in key:
        return 0.5, 0.0
    if key.endswith(("shared.weight",)):
        return 1.0, 0.0
    if "token_embedding" in key or "position_embedding" in key:
        return 0.02, 0.0
    if key == "decoder.conv_out.weight":  # pixels within -1..1, so that clamping hides nothing
        return 0.5 * unit, 0.0
    return unit, 0.0


class Writer:
    """Draws on the device while earlier shards go to disk."""

    def __init__(self, device, seed):
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.pool = ThreadPoolExecutor(2)
        self.pending = []

    def net(self, folder, base, shapes):
        folder.mkdir(parents=True, exist_ok=True)
        shards, size = [[]], 0
        for key, shape in shapes.items():
            bytes_ = 2 * torch.Size(shape).numel()
            if size + bytes_ > SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(key)
            size += bytes_
        index = {"metadata": {"total_size": sum(2 * torch.Size(s).numel() for s in shapes.values())}, "weight_map": {}}
        for number, keys in enumerate(shards, 1):
            name = f"{base}.safetensors" if len(shards) == 1 else f"{base}-{number:05}-of-{len(shards):05}.safetensors"
            tensors = {}
            for key in keys:
                std, mean = scale_and_shift(key, shapes[key])
                x = torch.randn(shapes[key], generator=self.generator, device=self.device)
                tensors[key] = x.mul_(std).add_(mean).bfloat16().cpu()
                index["weight_map"][key] = name
            self.pending.append(self.pool.submit(save_file, tensors, folder / name, metadata={"format": "pt"}))
        if len(shards) > 1:
            (folder / f"{base}.safetensors.index.json").write_text(json.dumps(index, indent=1))

    def finish(self):
        for write in self.pending:
            write.result()


def shapes_of(net):
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, help="blocks of each kind and layers of each encoder: a smaller file to try this script")
    args = parser.parse_args()

    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    flux, clip, t5 = dict(FLUX), dict(CLIP), dict(T5)
    if args.layers:
        flux["num_layers"] = flux["num_single_layers"] = args.layers
        clip["num_hidden_layers"] = t5["num_layers"] = args.layers

    started = time.monotonic()
    clip_config = CLIPTextConfig(**clip)
    t5_config = T5Config(**t5)
    with torch.device("meta"):
        nets = {
            "transformer": FluxTransformer2DModel(**flux),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(clip_config),
            "text_encoder_2": T5EncoderModel(t5_config),
        }
    writer = Writer(args.device, args.seed)
    for name, net in nets.items():
        folder = args.folder / name
        shapes = shapes_of(net)
        shapes.pop("encoder.embed_tokens.weight", None)  # tied to `shared.weight`, which alone is stored
        diffusers = name in ("transformer", "vae")
        writer.net(folder, "diffusion_pytorch_model" if diffusers else "model", shapes)
        if diffusers:
            net.save_config(folder)
        else:
            net.config.architectures = [type(net).__name__]
            net.config.save_pretrained(folder)
    (args.folder / "scheduler").mkdir(exist_ok=True)
    (args.folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    index = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (args.folder / "model_index.json").write_text(json.dumps(index, indent=2))
    if args.tokenizers:
        shutil.copytree(args.tokenizers / "clip", args.folder / "tokenizer", dirs_exist_ok=True)
        shutil.copytree(args.tokenizers / "t5", args.folder / "tokenizer_2", dirs_exist_ok=True)
    writer.finish()
    total = sum(file.stat().st_size for file in args.folder.rglob("*") if file.is_file())
    print(f"{args.folder}: {total / 1e9:.1f} GB in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
