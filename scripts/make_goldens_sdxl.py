#!/usr/bin/env python3
"""Writes handler_tests/goldens/sdxl: SDXL's UNet, a ControlNet and both pipelines of diffusers, on a CPU in f32; and
sdxl_single_file.json: the names of a tiny checkpoint's tensors in the published single file, as diffusers reads them.

Run like make_goldens.py, whose folder format and tiny encoders it uses:

    goldens-venv/bin/python scripts/make_goldens_sdxl.py handler_tests/goldens
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils
from make_goldens import CLIP_VOCABULARY, Folder, big_g, clip_l, draw, ids, sdxl_vae
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

END = CLIP_VOCABULARY - 1


def trunk(text, pooled):
    """SDXL's kind of levels, each part once or twice; heads by number, as in its configuration."""
    return {
        "block_out_channels": (16, 32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": text,
        "norm_num_groups": 4,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": pooled + 6 * 8,
    }


class Table:
    """Stands in for a tokenizer: prompts are keys of a table of ids."""

    model_max_length = 77
    added_tokens_encoder = {}

    def __init__(self, table):
        self.table = table

    def __call__(self, prompts, **_):
        prompts = [prompts] if isinstance(prompts, str) else prompts
        return SimpleNamespace(input_ids=torch.cat([self.table[prompt] for prompt in prompts]))

    def tokenize(self, prompt):
        return [prompt]

    def batch_decode(self, *_):
        return []


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}


def ldm_unet(stem, layers):
    """A UNet layer's name in the single file."""
    if stem in UNET:
        return UNET[stem]
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", stem):
        kind, index, rest = match.groups()
        return f"middle_block.{2 * int(index)}.{RESNET[rest]}" if kind == "resnets" else f"middle_block.1.{rest}"
    side, level, kind, index, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", stem).groups()
    block = int(level) * (layers + 1) + (int(index) if kind in ("resnets", "attentions") else layers)
    block = f"input_blocks.{block + 1}" if side == "down" else f"output_blocks.{block}"
    return {
        "resnets": lambda: f"{block}.0.{RESNET[rest]}", "attentions": lambda: f"{block}.1.{rest}",
        "downsamplers": lambda: f"{block}.0.op", "upsamplers": lambda: f"{block}.2.conv",
    }[kind]()


def ldm_vae(stem, levels):
    for old, new in (
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"), (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", r"up.\1.block.\2"), (r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
        (r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0\.", "mid.attn_1."), ("group_norm", "norm"), (r"to_out\.0", "proj_out"), (r"to_([qkv])", r"\1"),
        ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"),
    ):
        stem = re.sub(old, new, stem)
    return re.sub(r"decoder\.up\.(\d)", lambda match: f"decoder.up.{levels - 1 - int(match[1])}", stem)


def open_clip(key):
    for old, new in (
        ("text_model.encoder.layers", "transformer.resblocks"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"), ("self_attn", "attn"), ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.embeddings.token_embedding", "token_embedding"), ("text_model.final_layer_norm", "ln_final"),
        ("text_projection.weight", "text_projection"),
    ):
        key = key.replace(old, new)
    return re.sub(r"attn\.[qkv]_proj\.", "attn.in_proj_", key)


def single_file(path):
    """Names are accepted only if diffusers' own conversion turns them back."""
    config = trunk(64, 24) | {
        "block_out_channels": (16, 16, 32), "attention_head_dim": (1, 1, 2), "transformer_layers_per_block": [1, 1, 1]}
    unet = UNet2DConditionModel(up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), **config).state_dict()
    stem = lambda key, name: f"{name(key.rsplit('.', 1)[0])}.{key.rsplit('.', 1)[1]}"
    names = {"unet": {"model.diffusion_model." + stem(key, lambda s: ldm_unet(s, 2)): [key] for key in unet}}
    back = single_file_utils.convert_ldm_unet_checkpoint({ldm: unet[keys[0]] for ldm, keys in names["unet"].items()}, dict(config))
    assert back.keys() == unet.keys() and all(back[key] is unet[key] for key in unet)

    net = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=(8, 8, 16, 16),
        layers_per_block=2, norm_num_groups=4)
    vae = net.state_dict()
    names["vae"] = {"first_stage_model." + stem(key, lambda s: ldm_vae(s, 4)): [key] for key in vae}
    convolved = lambda key: vae[key][..., None, None] if ".attentions." in key and vae[key].ndim == 2 else vae[key]
    back = single_file_utils.convert_ldm_vae_checkpoint({ldm: convolved(keys[0]) for ldm, keys in names["vae"].items()}, net.config)
    assert back.keys() == vae.keys() and all(torch.equal(back[key], vae[key]) for key in vae)

    net = CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=3, projection_dim=24))
    big = {key: value for key, value in net.state_dict().items() if value.is_floating_point()}
    prefix = "conditioner.embedders.1.model."
    names["text_encoder_2"] = {}
    for key in big:
        # q, k, v in this order are rows of one matrix.
        names["text_encoder_2"].setdefault(prefix + open_clip(key), []).append(key)
    for keys in names["text_encoder_2"].values():
        keys.sort(key=lambda key: "qkv".find(key.split("_proj")[0][-1]))
    state = {ldm: torch.cat([big[key] for key in keys]) for ldm, keys in names["text_encoder_2"].items()}
    state[prefix + "text_projection"] = state[prefix + "text_projection"].T.contiguous()
    width = SimpleNamespace(config=SimpleNamespace(hidden_size=32))
    del state[prefix + "text_projection"]  # diffusers takes the width of q from it, which holds for square ones only
    back = single_file_utils.convert_open_clip_checkpoint(width, state, prefix=prefix)
    assert back.keys() | {"text_projection.weight"} == big.keys() and all(torch.equal(back[key], big[key]) for key in back)
    short = {ldm: [key.removeprefix("text_model.") for key in keys] for ldm, keys in names["text_encoder_2"].items()}
    names["text_encoder_2"] = short
    path.write_text(json.dumps(names, indent=0, separators=(",", ":")).replace("[\n", "[").replace("\n]", "]") + "\n")


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "handler_tests/goldens")
    torch.set_num_threads(1)
    folder = Folder(root / "sdxl")
    clip, big = clip_l(folder, "text_encoder"), big_g(folder, "text_encoder_2")
    text, pooled = clip.config.hidden_size + big.config.hidden_size, big.config.projection_dim
    unet = folder.component("unet", UNet2DConditionModel(
        sample_size=16, up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), **trunk(text, pooled)))
    controlnet = folder.component("controlnet", ControlNetModel(
        conditioning_embedding_out_channels=(8, 12, 16), **trunk(text, pooled)))
    vae = sdxl_vae(folder, "vae")
    scheduler = folder.component("scheduler", EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"))

    # --- nets on their own: odd sides, so that the way up must return to sizes that halving rounded ---
    shapes = {"sample": (2, 4, 13, 10), "text": (2, 5, text), "pooled": (2, pooled)}
    inputs = {role: {"shape": shape, "seed": 70 + i} for i, (role, shape) in enumerate(shapes.items())}
    drawn = {role: draw(**recipe) for role, recipe in inputs.items()}
    inputs["hint"] = np.random.default_rng(11).integers(0, 256, (52, 40, 3), np.uint8)
    hint = torch.from_numpy(inputs["hint"]).permute(2, 0, 1)[None].float() / 255
    time_ids = [[52.0, 40.0, 0.0, 0.0, 52.0, 40.0], [1001.0, 640.0, 16.0, 8.0, 1024.0, 1216.0]]
    added = {"text_embeds": drawn["pooled"], "time_ids": torch.tensor(time_ids)}
    for timestep in (981, 1):
        down, middle = controlnet(
            drawn["sample"], timestep, drawn["text"], torch.cat([hint, hint]), conditioning_scale=0.7, added_cond_kwargs=added,
            return_dict=False)
        run = lambda **more: unet(drawn["sample"], timestep, drawn["text"], added_cond_kwargs=added, return_dict=False, **more)[0]
        controlled = run(down_block_additional_residuals=down, mid_block_additional_residual=middle)
        expected = {"output": run(), "controlled": controlled, "middle": middle}
        if timestep == 981:
            expected |= {f"down.{i}": part for i, part in enumerate(down)}
        folder.case(f"unet_{timestep}", "sdxl_unet", {"unet": "unet", "controlnet": "controlnet"},
                    {"timestep": timestep, "time_ids": time_ids, "scale": 0.7}, inputs, expected)

    # --- whole pictures ---
    tables = []
    for seed in (80, 90):
        words = {"scene": 12, "noisy": 4, "": 0}
        tables.append({
            prompt: ids(seed + i, 1, 77, CLIP_VOCABULARY, END, END if seed == 80 else 0, count)
            for i, (prompt, count) in enumerate(words.items())
        })
    roles = {role: role for role in ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler")}
    nets = {"unet": unet, "vae": vae, "text_encoder": clip, "text_encoder_2": big}
    # Of another size than the picture, so that resizing is part of the comparison.
    edges = np.random.default_rng(12).integers(0, 256, (50, 61, 3), np.uint8)

    def picture(name, parameters, negative=None, control=None, **more):
        parts = dict(nets, tokenizer=Table(tables[0]), tokenizer_2=Table(tables[1]), add_watermarker=False,
                     scheduler=EulerDiscreteScheduler.from_config(scheduler.config))
        p, own = parameters, dict(roles)
        if control is None:
            pipe = StableDiffusionXLPipeline(**parts)
        else:
            pipe = StableDiffusionXLControlNetPipeline(controlnet=controlnet, **parts)
            own["controlnet"] = "controlnet"
        pipe.set_progress_bar_config(disable=True)
        inputs = {"clip_ids": tables[0]["scene"], "clip_2_ids": tables[1]["scene"]}
        if negative is not None:
            inputs |= {"negative_clip_ids": tables[0][negative], "negative_clip_2_ids": tables[1][negative]}
        embeds, away, vector, away_vector = pipe.encode_prompt(
            "scene", device="cpu", do_classifier_free_guidance=p["guidance"] > 1, negative_prompt=negative)
        # The prompt is the same in all cases.
        expected = {"prompt_embeds": embeds, "pooled": vector} if name == "text_to_image" else {}
        if negative is not None and control is None:
            expected |= {"negative_prompt_embeds": away, "negative_pooled": away_vector}
        arguments = {}
        if control is not None:
            inputs["control"] = edges
            arguments = {
                "image": Image.fromarray(edges), "controlnet_conditioning_scale": p["control_scale"],
                "control_guidance_start": p["control_start"], "control_guidance_end": p["control_end"],
            }
        steps = []

        def keep(_pipe, _index, _time, values):
            steps.append(values["latents"].clone())
            return {}

        image = pipe(
            "scene", negative_prompt=negative, width=p["width"], height=p["height"], num_inference_steps=p["steps"],
            guidance_scale=p["guidance"], generator=torch.Generator("cpu").manual_seed(p["seed"]), output_type="pil",
            callback_on_step_end=keep, **arguments, **more).images[0]
        expected |= {f"latents.{i}": latents for i, latents in enumerate(steps)}
        expected["image"] = np.array(image)
        assert expected["image"].std() > 5, "a flat picture proves nothing"
        folder.case(name, "sdxl_text_to_image" if control is None else "sdxl_controlnet", own, p, inputs, expected)

    # The tiny VAE shrinks by 4: latents of 14 x 10, which do not halve evenly twice.
    size = {"width": 56, "height": 40}
    picture("text_to_image", {**size, "steps": 4, "guidance": 5.0, "seed": 50})
    picture("negative", {**size, "steps": 3, "guidance": 7.5, "seed": 51}, negative="noisy")
    picture("negative_empty", {**size, "steps": 2, "guidance": 6.0, "seed": 52}, negative="")
    picture("unguided", {**size, "steps": 2, "guidance": 1.0, "seed": 53})
    picture("cropped", {**size, "steps": 2, "guidance": 5.0, "seed": 54, "original_size": [300, 400], "crop": [24, 8]},
            original_size=(300, 400), crops_coords_top_left=(24, 8))
    control = {"control_scale": 1.0, "control_start": 0.0, "control_end": 1.0}
    picture("controlnet", {**size, "steps": 4, "guidance": 6.0, "seed": 55, **control}, control=True)
    picture("controlnet_part", {**size, "steps": 5, "guidance": 6.0, "seed": 56, "control_scale": 0.6, "control_start": 0.25,
                                "control_end": 0.7}, negative="noisy", control=True)
    folder.write()
    single_file(root / "sdxl_single_file.json")


if __name__ == "__main__":
    main()
