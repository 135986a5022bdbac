#!/usr/bin/env python3
"""Writes checkpoints of the published sizes with random weights, in the published layouts.

    python3 scripts/gpu/make_full_size.py /tmp/marquee-full [--only flux,sdxl] [--birefnet CHECKOUT]

| folder | what | GB |
|---|---|---|
| `flux` | FLUX.1-dev in diffusers' layout, bf16: transformer 23.8, T5-XXL 9.5, CLIP-L, VAE | 33.9 |
| `sdxl` | SDXL base in diffusers' layout, f16: UNet 5.1, both CLIPs, a VAE that does not overflow | 7.0 |
| `controlnet` | the canny ControlNet for it, f16 | 2.5 |
| `birefnet` | BiRefNet with Swin v1 L, f16 (needs `--birefnet`, a checkout of its repository) | 0.4 |

So loaders, memory and speed can be measured without licensed weights. Numbers are normal, with deviations that keep
activations of order one to a hundred through all layers: every matrix has gain 1 (deviation 1 / sqrt(inputs)), what is
added to a residual stream less, so that f16 (65504) is never near. None is zero, which would cost a GPU less power and look
faster; parts that start at zero in training (ControlNet's outputs, offsets of deformable convolutions) are random too. A
part that is complete is left alone; several scripts share the folder.
Needs torch, safetensors, diffusers and transformers; a minute and a half on a GPU machine for all, mostly the disk's.
`--tokenizers`: a folder with `clip/` and `t5/`; default the tiny ones of this project's tests, whose ids the nets know.
`--small` makes nets of few layers and channels with the same names, to try scripts on a CPU.
"""

import argparse
import json
import shutil
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
TOKENIZERS = ROOT / "handler_tests/goldens/tokenizers"
SHARD_BYTES = 5_000_000_000
COMPLETE = "complete.json"
PARTS = ("flux", "sdxl", "controlnet", "birefnet")

# --- black-forest-labs/FLUX.1-dev: transformer/, vae/, text_encoder/, text_encoder_2/, scheduler/ config files --------

FLUX = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
FLUX_VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 16, "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 1024, "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
    "force_upcast": True, "mid_block_add_attention": True,
}
CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "layer_norm_eps": 1e-5,
}
T5 = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "is_encoder_decoder": True,
}
FLUX_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0,
    "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}

# --- stabilityai/stable-diffusion-xl-base-1.0: unet/, text_encoder_2/, scheduler/ config files ---------------------------

TRUNK = {
    "in_channels": 4, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "block_out_channels": [320, 640, 1280], "layers_per_block": 2, "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "norm_num_groups": 32, "norm_eps": 1e-5, "act_fn": "silu", "flip_sin_to_cos": True, "freq_shift": 0,
}
UNET = TRUNK | {
    "out_channels": 4, "sample_size": 128, "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
# diffusers/controlnet-canny-sdxl-1.0: config.json.
CONTROLNET = TRUNK | {
    "conditioning_channels": 3, "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
}
BIG_G = {
    "vocab_size": 49408, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": 1280,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "layer_norm_eps": 1e-5,
}
# madebyollin/sdxl-vae-fp16-fix: config.json; the base model's differs in force_upcast alone.
SDXL_VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 512, "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.13025, "force_upcast": False,
}
SDXL_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1,
    "interpolation_type": "linear", "use_karras_sigmas": False,
}

# ZhengPeng7/BiRefNet: config.json states no sizes; they are those of the code (Swin v1 L).
BIREFNET = {"_name_or_path": "ZhengPeng7/BiRefNet", "architectures": ["BiRefNet"], "bb_pretrained": False}


def shrink(configs):
    """The same names, few layers and channels."""
    flux, vae, clip, t5, unet, controlnet, big_g, sdxl_vae = configs
    flux |= {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": [4, 4, 8], "joint_attention_dim": 32, "pooled_projection_dim": 32}
    clip |= {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "projection_dim": 32}
    big_g |= {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "projection_dim": 32}
    t5 |= {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    for codec in (vae, sdxl_vae):
        codec |= {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
    for trunk in (unet, controlnet):
        trunk |= {
            "block_out_channels": [16, 16, 32], "transformer_layers_per_block": [1, 1, 1], "attention_head_dim": [1, 1, 2],
            "cross_attention_dim": 64, "norm_num_groups": 4, "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
        }
    controlnet["conditioning_embedding_out_channels"] = [4, 4, 8, 8]


# What a matrix adds to a residual stream, by the end of its name.
RESIDUAL = (
    "to_out.0.weight", "to_add_out.weight", "ff.net.2.weight", "ff_context.net.2.weight", "proj_out.weight", "conv2.weight",
    "self_attn.out_proj.weight", "mlp.fc2.weight",
)


def scale_and_shift(net, key, shape):
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
    if key.endswith("shared.weight"):
        return 1.0, 0.0
    if "token_embedding" in key or "position_embedding" in key:
        return 0.02, 0.0
    if key == "decoder.conv_out.weight":  # pixels within -1..1, so that clamping hides nothing
        return 0.5 * unit, 0.0
    if key.startswith(("controlnet_down_blocks", "controlnet_mid_block")):  # they add to every skip of the UNet
        return 0.3 * unit, 0.0
    # FLUX's gates do this; elsewhere the last norm is far behind the first block.
    if net in ("unet", "controlnet", "clip_sdxl") and key.endswith(RESIDUAL):
        return 0.4 * unit, 0.0
    return unit, 0.0


class Writer:
    """Draws on the device while earlier files go to disk."""

    def __init__(self, device, seed):
        self.device = torch.device(device)
        self.seed = seed
        self.pool = ThreadPoolExecutor(3)
        self.pending = []

    def net(self, kind, folder, base, shapes, dtype):
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator(self.device).manual_seed(self.seed + zlib.crc32(str(folder.name).encode()))
        size_of = torch.tensor([], dtype=dtype).element_size()
        shards, size = [[]], 0
        for key, shape in shapes.items():
            bytes_ = size_of * torch.Size(shape).numel()
            if size + bytes_ > SHARD_BYTES and shards[-1]:
                shards.append([])
                size = 0
            shards[-1].append(key)
            size += bytes_
        total = sum(size_of * torch.Size(shape).numel() for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": {}}
        for number, keys in enumerate(shards, 1):
            name = f"{base}.safetensors" if len(shards) == 1 else f"{base}-{number:05}-of-{len(shards):05}.safetensors"
            tensors = {}
            for key in keys:
                std, mean = scale_and_shift(kind, key, shapes[key])
                x = torch.randn(shapes[key], generator=generator, device=self.device)
                tensors[key] = x.mul_(std).add_(mean).to(dtype).cpu()
                index["weight_map"][key] = name
            self.save(tensors, folder / name)
        if len(shards) > 1:
            (folder / f"{base}.safetensors.index.json").write_text(json.dumps(index, indent=1))

    def save(self, tensors, path):
        # Two shards may wait; more would fill the memory of a small machine.
        for write in self.pending[:-2]:
            write.result()
        self.pending = self.pending[-2:] + [self.pool.submit(save_file, tensors, path, metadata={"format": "pt"})]

    def finish(self):
        for write in self.pending:
            write.result()
        self.pending = []


def shapes_of(net):
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items() if value.is_floating_point()}
    shapes.pop("encoder.embed_tokens.weight", None)  # tied to `shared.weight`, which alone is stored
    return shapes


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_net(writer, kind, folder, net, dtype):
    diffusers = hasattr(net, "save_config")
    writer.net(kind, folder, "diffusion_pytorch_model" if diffusers else "model", shapes_of(net), dtype)
    if diffusers:
        net.save_config(folder)
    else:
        net.config.architectures = [type(net).__name__]
        net.config.save_pretrained(folder)


def clip_tokenizer(source, target, pad):
    shutil.copytree(source, target, dirs_exist_ok=True)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad}
    settings |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    write_json(target / "tokenizer_config.json", settings)


def t5_tokenizer(source, target):
    shutil.copytree(source, target, dirs_exist_ok=True)
    settings = {"tokenizer_class": "T5TokenizerFast", "model_max_length": 512, "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(target / "tokenizer_config.json", settings)


def flux(writer, folder, args, configs):
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    config, vae, clip, t5 = configs[:4]
    clip, t5 = CLIPTextConfig(**clip), T5Config(**t5)
    with torch.device("meta"):
        nets = {
            "transformer": FluxTransformer2DModel(**config), "vae": AutoencoderKL(**vae),
            "text_encoder": CLIPTextModel(clip), "text_encoder_2": T5EncoderModel(t5),
        }
    for name, net in nets.items():
        write_net(writer, name, folder / name, net, torch.bfloat16)
    write_json(folder / "scheduler/scheduler_config.json", FLUX_SCHEDULER)
    write_json(folder / "model_index.json", {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
    clip_tokenizer(args.tokenizers / "clip", folder / "tokenizer", "<|endoftext|>")
    t5_tokenizer(args.tokenizers / "t5", folder / "tokenizer_2")


def sdxl(writer, folder, args, configs):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    clip, unet, big_g, vae = configs[2], configs[4], configs[6], configs[7]
    clip, big_g = CLIPTextConfig(**clip), CLIPTextConfig(**big_g)
    with torch.device("meta"):
        nets = {
            "unet": UNet2DConditionModel(**unet), "vae": AutoencoderKL(**vae),
            "text_encoder": CLIPTextModel(clip), "text_encoder_2": CLIPTextModelWithProjection(big_g),
        }
    for name, net in nets.items():
        write_net(writer, "clip_sdxl" if name.startswith("text") else name, folder / name, net, torch.float16)
    write_json(folder / "scheduler/scheduler_config.json", SDXL_SCHEDULER)
    write_json(folder / "model_index.json", {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
    # The second encoder was trained on another padding.
    clip_tokenizer(args.tokenizers / "clip", folder / "tokenizer", "<|endoftext|>")
    clip_tokenizer(args.tokenizers / "clip", folder / "tokenizer_2", "!")


def controlnet(writer, folder, args, configs):
    from diffusers import ControlNetModel

    with torch.device("meta"):
        net = ControlNetModel(**configs[5])
    write_net(writer, "controlnet", folder, net, torch.float16)


def birefnet(writer, folder, args, configs):
    """All 754 entries of the published file, those that only training reads too."""
    import birefnet_original as original

    sizes = {"embed_dim": 12, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 12} if args.small else None
    with writer.device:
        net = original.build(args.birefnet, sizes)
    generator = torch.Generator(writer.device).manual_seed(writer.seed)
    tensors = {}
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            kind, scale, shift = original.recipe(key, value.shape)
            drawn = torch.randn(value.shape, generator=generator, device=writer.device)
            value = ((drawn.abs() if kind == "abs_randn" else drawn) * scale + shift).half()
        tensors[key] = value.cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    writer.save(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", BIREFNET | ({"backbone": sizes, "size": 128} if sizes else {}))


def ensure(root, parts, device="cuda", seed=1, tokenizers=TOKENIZERS, checkout=None, small=False):
    """Writes the parts that are not complete yet. Returns the seconds it took."""
    import copy

    args = argparse.Namespace(tokenizers=Path(tokenizers), birefnet=checkout, small=small)
    configs = [copy.deepcopy(c) for c in (FLUX, FLUX_VAE, CLIP_L, T5, UNET, CONTROLNET, BIG_G, SDXL_VAE)]
    if small:
        shrink(configs)
    started = time.monotonic()
    writer = Writer(device, seed)
    for part in parts:
        folder = Path(root) / part
        stamp = {"seed": seed, "small": small}
        if (folder / COMPLETE).is_file() and json.loads((folder / COMPLETE).read_text()) == stamp:
            continue
        if part == "birefnet" and checkout is None:
            raise SystemExit("birefnet: needs a checkout of its repository (--birefnet)")
        begun = time.monotonic()
        {"flux": flux, "sdxl": sdxl, "controlnet": controlnet, "birefnet": birefnet}[part](writer, folder, args, configs)
        writer.finish()
        write_json(folder / COMPLETE, stamp)
        total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder}: {total / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--only", default=",".join(PARTS[:3]), help=f"of {','.join(PARTS)}; default all but birefnet")
    parser.add_argument("--birefnet", type=Path, metavar="CHECKOUT", help="writes birefnet too")
    parser.add_argument("--tokenizers", type=Path, default=TOKENIZERS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    parts = args.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    if args.birefnet and "birefnet" not in parts:
        parts.append("birefnet")
    ensure(args.root, parts, args.device, args.seed, args.tokenizers, args.birefnet, args.small)


if __name__ == "__main__":
    main()
