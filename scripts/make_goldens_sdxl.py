#!/usr/bin/env python3
"""Writes handler_tests/goldens/sdxl: SDXL's UNet, a ControlNet and both pipelines of diffusers, on a CPU in f32.

Run like make_goldens.py, whose folder format and tiny encoders it uses:

    goldens-venv/bin/python scripts/make_goldens_sdxl.py handler_tests/goldens
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from make_goldens import CLIP_VOCABULARY, Folder, big_g, clip_l, draw, ids, sdxl_vae
from PIL import Image

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


if __name__ == "__main__":
    main()
