#!/usr/bin/env python3
"""Writes the golden folders of handler_tests/goldens with the original libraries, on a CPU in f32.

The nets are tiny and their weights are described by seed, so a folder holds outputs and little else; README.md there
defines the format. Run it when a stage is added, and commit what it writes:

    python3 -m venv goldens-venv
    goldens-venv/bin/pip install torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 Pillow==12.3.0 safetensors accelerate protobuf
    goldens-venv/bin/python scripts/make_goldens.py handler_tests/goldens

Pins: torch >= 2.13 for its rule of bf16 draws, Pillow < 13 because 13 resizes in another order.
"""

import json
import math
import struct
import sys
import zlib
from pathlib import Path

import diffusers
import numpy as np
import PIL
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

FORMAT = "marquee-goldens/1"
VERSIONS = {
    "torch": torch.__version__.split("+")[0],
    "diffusers": diffusers.__version__,
    "transformers": transformers.__version__,
    "pillow": PIL.__version__,
    "numpy": np.__version__,
}


def draw(shape, seed):
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def scale_and_shift(key, tensor, config):
    """Sizes that keep activations near 1; zero-initialised parts become alive, norms stay near the identity."""
    name = key.rsplit(".", 1)[-1]
    if "relative_attention_bias" in key:
        return 0.5, 0.0
    if key.startswith("shared") or "_embedding" in key:
        return 0.7, 0.0
    if name == "weight" and tensor.ndim == 1:
        return 0.1, 1.0
    if tensor.ndim == 1:
        return 0.05, 0.0
    scale = 1.0 / math.sqrt(tensor[0].numel())
    if "SelfAttention.q." in key:  # T5 does not scale its scores.
        scale /= math.sqrt(config["d_kv"])
    return scale, 0.0


class Folder:
    """A golden folder in the making."""

    def __init__(self, path):
        self.path = Path(path)
        self.components, self.cases, self.tensors = {}, [], {}

    def component(self, name, part, classname=None):
        """Registers a net or scheduler; a net's weights are replaced by the described ones."""
        config = dict(part.config) if hasattr(part, "save_config") else part.config.to_dict()
        config = {k: v for k, v in config.items() if not k.startswith("_") and v is not None}
        config = json.loads(json.dumps(config, default=str))
        entry = {"class": classname or type(part).__name__, "config": config}
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
            config["architectures"] = [entry["class"]]
            entry["weights"] = weights = []
            state = {}
            for key, tensor in part.state_dict().items():
                if not tensor.is_floating_point() or key == "encoder.embed_tokens.weight":
                    continue
                short = key.removeprefix("text_model.")
                seed = zlib.crc32(f"{name}/{short}".encode())
                scale, shift = scale_and_shift(short, tensor, config)
                state[key] = draw(tensor.shape, seed) * scale + shift
                weights.append({"key": short, "shape": list(tensor.shape), "seed": seed, "scale": scale, "shift": shift})
            missing = part.load_state_dict(state, strict=False)
            assert not missing.unexpected_keys and set(missing.missing_keys) <= {"encoder.embed_tokens.weight"}, missing
        self.components[name] = entry
        return part

    def case(self, name, kind, components, parameters, inputs, expected):
        """`inputs`: tensors, or {"shape", "seed"} for randn; `expected`: tensors by stage, in order of the flow."""

        def store(role, value, way):
            if isinstance(value, dict):
                return {"randn": value}
            key = f"{name}.{way}.{role}"
            self.tensors[key] = torch.as_tensor(value).detach().clone().contiguous()
            return {"tensor": key}

        self.cases.append({
            "name": name,
            "kind": kind,
            "components": components,
            "parameters": parameters,
            "inputs": {role: store(role, value, "in") for role, value in inputs.items()},
            "expected": {stage: store(stage, value, "out")["tensor"] for stage, value in expected.items()},
        })

    def write(self):
        self.path.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, self.path / "golden.safetensors")
        lines = [f'"format": {json.dumps(FORMAT)}', f'"made_with": {json.dumps(VERSIONS)}']
        parts = []
        for name, entry in self.components.items():
            entry = dict(entry)
            weights = entry.pop("weights", None)
            text = json.dumps(entry)
            if weights is not None:
                rows = ",\n".join("   " + json.dumps(row) for row in weights)
                text = text[:-1] + ', "weights": [\n' + rows + "\n  ]}"
            parts.append(f"  {json.dumps(name)}: {text}")
        lines.append('"components": {\n' + ",\n".join(parts) + "\n }")
        lines.append('"cases": [\n' + ",\n".join("  " + json.dumps(case) for case in self.cases) + "\n ]")
        (self.path / "manifest.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n")


def ids(seed, batch, length, vocabulary, end, pad, words):
    """Prompts of `words` random ids, an end token and padding."""
    rng = np.random.default_rng(seed)
    table = np.full((batch, length), pad, np.int64)
    for row in range(batch):
        count = words - row
        table[row, :count] = rng.integers(4, vocabulary - 2, count)
        table[row, count] = end
    return torch.from_numpy(table)


# --- the tiny nets -----------------------------------------------------------------------------------------------------

CLIP_VOCABULARY, T5_VOCABULARY = 600, 300


def clip_l(folder, name="text_encoder"):
    # eos_token_id 2 as in the published CLIP-L: the pooled row is that of the highest id.
    config = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY, hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=3,
        max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=32, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )
    return folder.component(name, CLIPTextModel(config))


def big_g(folder, name):
    config = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY, hidden_size=32, intermediate_size=37, num_attention_heads=2, num_hidden_layers=3,
        max_position_embeddings=77, hidden_act="gelu", projection_dim=24, bos_token_id=0, eos_token_id=CLIP_VOCABULARY - 1,
        pad_token_id=1,
    )
    return folder.component(name, CLIPTextModelWithProjection(config))


def t5(folder, name="text_encoder_2"):
    # Heads times their channels differ from d_model on purpose.
    config = T5Config(
        vocab_size=T5_VOCABULARY, d_model=32, d_kv=6, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return folder.component(name, T5EncoderModel(config))


def transformer(folder, name, guidance, double=1, single=1, heads=2):
    return folder.component(name, FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=double, num_single_layers=single, attention_head_dim=16,
        num_attention_heads=heads, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
        guidance_embeds=guidance,
    ))


def flux_vae(folder, name="vae"):
    return folder.component(name, AutoencoderKL(
        sample_size=32, in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=16,
        norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611,
    ))


def sdxl_vae(folder, name):
    return folder.component(name, AutoencoderKL(
        sample_size=32, in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3, block_out_channels=(8, 16, 16), layers_per_block=2, latent_channels=4,
        norm_num_groups=4, scaling_factor=0.13025, force_upcast=False,
    ))


def dev_scheduler(folder, name="scheduler"):
    return folder.component(name, FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096,
    ))


# --- stages on their own -----------------------------------------------------------------------------------------------


def stages(path):
    folder = Folder(path)

    for name, net in (("clip_l", clip_l(folder, "clip_l")), ("big_g", big_g(folder, "big_g"))):
        table = ids(1, 2, 77, CLIP_VOCABULARY, CLIP_VOCABULARY - 1, 1, 9)
        out = net(table, output_hidden_states=True)
        expected = {"penultimate": out.hidden_states[-2], "last_hidden_state": out.last_hidden_state}
        if name == "big_g":
            # This class returns the projection only; the pooled row is the one at the first end token.
            row = (table == CLIP_VOCABULARY - 1).int().argmax(-1)
            expected["pooled"] = out.last_hidden_state[torch.arange(2), row]
            expected["text_embeds"] = out.text_embeds
        else:
            expected["pooled"] = out.pooler_output
        folder.case(name, "clip", {"encoder": name}, {}, {"ids": table}, expected)

    net = t5(folder, "t5")
    table = ids(2, 2, 160, T5_VOCABULARY, 1, 0, 150)
    folder.case("t5", "t5", {"encoder": "t5"}, {}, {"ids": table}, {"last_hidden_state": net(table)[0]})

    for name, guidance in (("transformer_dev", 3.5), ("transformer_schnell", None)):
        net = transformer(folder, name, guidance is not None, double=2, single=2)
        height, width, text, time = 3, 5, 7, 0.7265625
        shapes = {"hidden_states": (1, height * width, 64), "encoder_hidden_states": (1, text, 32), "pooled": (1, 32)}
        inputs = {role: {"shape": shape, "seed": 40 + i} for i, (role, shape) in enumerate(shapes.items())}
        drawn = {role: draw(**recipe) for role, recipe in inputs.items()}
        grid = FluxPipeline._prepare_latent_image_ids(1, height, width, "cpu", torch.float32)
        out = net(
            hidden_states=drawn["hidden_states"], encoder_hidden_states=drawn["encoder_hidden_states"],
            pooled_projections=drawn["pooled"], timestep=torch.tensor([time]), img_ids=grid, txt_ids=torch.zeros(text, 3),
            guidance=None if guidance is None else torch.tensor([guidance]), return_dict=False,
        )[0]
        parameters = {"timestep": time, "guidance": guidance, "height": height, "width": width}
        folder.case(name, "transformer", {"transformer": name}, parameters, inputs, {"output": out})

    for name, net, latent in (
        ("vae_flux", flux_vae(folder, "vae_flux"), (16, 6, 9)),
        ("vae_sdxl", sdxl_vae(folder, "vae_sdxl"), (4, 9, 11)),
    ):
        scale = 2 ** (len(net.config.block_out_channels) - 1)
        inputs = {
            "pixels": {"shape": [1, 3, latent[1] * scale, latent[2] * scale], "seed": 50},
            "latents": {"shape": [1, *latent], "seed": 51},
        }
        pixels, latents = (draw(**recipe) for recipe in inputs.values())
        posterior = net.encode(pixels).latent_dist
        expected = {
            "mean": posterior.mean,
            "std": posterior.std,
            "sample": posterior.sample(torch.Generator("cpu").manual_seed(7)),
            "decoded": net.decode(latents).sample,
        }
        net.enable_tiling()
        expected["tiled_mean"] = net.encode(pixels).latent_dist.mean
        expected["tiled_decoded"] = net.decode(latents).sample
        net.disable_tiling()
        assert not torch.equal(expected["tiled_decoded"], expected["decoded"])
        folder.case(name, "vae", {"vae": name}, {"seed": 7}, inputs, expected)

    rng = np.random.default_rng(9)
    for name, channels, mode in (("rgb", 3, "RGB"), ("rgba", 4, "RGBA"), ("grey", 1, "L")):
        raw = rng.integers(0, 256, (37, 53, channels), np.uint8)
        image = Image.fromarray(raw.squeeze(), mode)
        picture = VaeImageProcessor(do_convert_rgb=True).preprocess(image, height=32, width=64)
        mask = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True).preprocess(image, height=32, width=64)
        parameters = {"width": 64, "height": 32}
        folder.case(f"image_{name}", "image", {}, parameters, {"image": raw}, {"picture": picture, "mask": mask.to(torch.uint8)})

    dev = dev_scheduler(folder, "flow_dev")
    schnell = folder.component("flow_schnell", FlowMatchEulerDiscreteScheduler(shift=1.0))
    fixed = folder.component("flow_fixed", FlowMatchEulerDiscreteScheduler(shift=3.0))
    runs = [("flow_dev", dev, 28, 4096), ("flow_dev", dev, 4, 64), ("flow_dev", dev, 7, 8100), ("flow_schnell", schnell, 4, 4096)]
    for name, scheduler, steps, tokens in [*runs, ("flow_fixed", fixed, 20, 1024), ("flow_fixed", fixed, 1, 1024)]:
        mu = diffusers.pipelines.flux.pipeline_flux.calculate_shift(tokens)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        folder.case(
            f"{name}_{steps}_{tokens}", "flow_match", {"scheduler": name}, {"steps": steps, "image_tokens": tokens}, {},
            {"sigmas": scheduler.sigmas, "timesteps": scheduler.timesteps},
        )

    for spacing in ("leading", "trailing", "linspace"):
        for karras in (False, True):
            name = f"euler_{spacing}" + ("_karras" if karras else "")
            scheduler = folder.component(name, EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing=spacing,
                use_karras_sigmas=karras,
            ))
            for steps in (7, 50):
                scheduler.set_timesteps(steps)
                noise = torch.as_tensor(scheduler.init_noise_sigma).float().reshape(1)
                sample, prediction = draw((1, 4, 4, 4), 60), draw((1, 4, 4, 4), 61)
                expected = {"sigmas": scheduler.sigmas, "timesteps": scheduler.timesteps, "init_noise_sigma": noise}
                t = scheduler.timesteps[0]
                expected["scaled"] = scheduler.scale_model_input(sample, t)
                expected["stepped"] = scheduler.step(prediction, t, sample).prev_sample
                folder.case(
                    f"{name}_{steps}", "euler", {"scheduler": name}, {"steps": steps},
                    {"sample": {"shape": [1, 4, 4, 4], "seed": 60}, "prediction": {"shape": [1, 4, 4, 4], "seed": 61}}, expected,
                )
    folder.write()


def halves(path):
    """The transformer in bf16: where it rounds shows in an error ten times smaller than that of bf16 itself."""
    folder = Folder(path)
    net = transformer(folder, "transformer", True, double=2, single=2).to(torch.bfloat16)
    height, width, text, time, guidance = 3, 5, 7, 988.4, 3.5
    shapes = {"hidden_states": (1, height * width, 64), "encoder_hidden_states": (1, text, 32), "pooled": (1, 32)}
    inputs = {role: {"shape": shape, "seed": 70 + i} for i, (role, shape) in enumerate(shapes.items())}
    drawn = {role: draw(**recipe).to(torch.bfloat16) for role, recipe in inputs.items()}
    grid = FluxPipeline._prepare_latent_image_ids(1, height, width, "cpu", torch.bfloat16)
    out = net(
        hidden_states=drawn["hidden_states"], encoder_hidden_states=drawn["encoder_hidden_states"],
        pooled_projections=drawn["pooled"], timestep=torch.tensor([time]).to(torch.bfloat16) / 1000, img_ids=grid,
        txt_ids=torch.zeros(text, 3, dtype=torch.bfloat16), guidance=torch.tensor([guidance]), return_dict=False,
    )[0]
    parameters = {"scheduler_timestep": time, "guidance": guidance, "height": height, "width": width}
    folder.case("transformer_bf16", "transformer_bf16", {"transformer": "transformer"}, parameters, inputs, {"output": out.float()})
    folder.write()


# --- whole pipelines ---------------------------------------------------------------------------------------------------


def pipelines(path):
    folder = Folder(path)
    nets = {
        "transformer": transformer(folder, "transformer", True),
        "vae": flux_vae(folder),
        "text_encoder": clip_l(folder),
        "text_encoder_2": t5(folder),
        "scheduler": dev_scheduler(folder),
        "transformer_schnell": transformer(folder, "transformer_schnell", False),
        "scheduler_schnell": folder.component("scheduler_schnell", FlowMatchEulerDiscreteScheduler(shift=1.0)),
    }
    clip_ids = ids(3, 1, 77, CLIP_VOCABULARY, CLIP_VOCABULARY - 1, 1, 12)
    t5_ids = ids(4, 1, 24, T5_VOCABULARY, 1, 0, 14)
    negative_clip_ids = ids(5, 1, 77, CLIP_VOCABULARY, CLIP_VOCABULARY - 1, 1, 3)
    negative_t5_ids = ids(6, 1, 24, T5_VOCABULARY, 1, 0, 4)
    rng = np.random.default_rng(8)
    # Not of the target's size, so that resizing is part of the comparison.
    photo = rng.integers(0, 256, (72, 100, 3), np.uint8)
    mask = np.zeros((72, 100), np.uint8)
    mask[20:50, 30:70] = 255

    def run(name, kind, pipeline, parameters, negative=False, image=None, painted=None, other=()):
        p = parameters
        roles = {role: role for role in ("transformer", "vae", "text_encoder", "text_encoder_2", "scheduler")} | dict(other)
        pipe = pipeline(tokenizer=None, tokenizer_2=None, **{role: nets[part] for role, part in roles.items()})
        pipe.set_progress_bar_config(disable=True)
        inputs = {"clip_ids": clip_ids, "t5_ids": t5_ids}
        embeds, pooled = nets["text_encoder_2"](t5_ids)[0], nets["text_encoder"](clip_ids).pooler_output
        expected = {"pooled": pooled, "prompt_embeds": embeds}
        arguments = {
            "prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "width": p["width"], "height": p["height"],
            "num_inference_steps": p["steps"], "guidance_scale": p["guidance"],
            "generator": torch.Generator("cpu").manual_seed(p["seed"]),
        }
        if negative:
            inputs |= {"negative_clip_ids": negative_clip_ids, "negative_t5_ids": negative_t5_ids}
            embeds = nets["text_encoder_2"](negative_t5_ids)[0]
            pooled = nets["text_encoder"](negative_clip_ids).pooler_output
            expected |= {"negative_pooled": pooled, "negative_prompt_embeds": embeds}
            arguments |= {
                "negative_prompt_embeds": embeds, "negative_pooled_prompt_embeds": pooled, "true_cfg_scale": p["true_cfg_scale"],
            }
        if image is not None:
            inputs["image"] = image
            arguments |= {"image": Image.fromarray(image), "strength": p["strength"]}
        if painted is not None:
            inputs["mask"] = painted
            arguments["mask_image"] = Image.fromarray(painted)
        if "padding_mask_crop" in p:
            arguments["padding_mask_crop"] = p["padding_mask_crop"]
        steps = []

        def keep(_pipe, _index, _time, values):
            steps.append(values["latents"].clone())
            return {}

        picture = pipe(**arguments, output_type="pil", callback_on_step_end=keep).images[0]
        expected |= {f"latents.{i}": latents for i, latents in enumerate(steps)}
        expected["image"] = np.array(picture)
        assert expected["image"].std() > 5, "a flat picture proves nothing"
        folder.case(name, kind, roles, p, inputs, expected)

    size = {"width": 64, "height": 48}
    run("text_to_image", "text_to_image", FluxPipeline, {**size, "steps": 4, "guidance": 3.5, "seed": 42})
    run("true_cfg", "text_to_image", FluxPipeline,
        {**size, "steps": 3, "guidance": 3.5, "seed": 43, "true_cfg_scale": 2.5}, negative=True)
    run("image_to_image", "image_to_image", FluxImg2ImgPipeline,
        {**size, "steps": 5, "guidance": 7.0, "seed": 44, "strength": 0.6}, image=photo)
    run("schnell", "text_to_image", FluxPipeline, {**size, "steps": 2, "guidance": 0.0, "seed": 45},
        other={"transformer": "transformer_schnell", "scheduler": "scheduler_schnell"})
    run("inpaint", "inpaint", FluxInpaintPipeline,
        {**size, "steps": 5, "guidance": 7.0, "seed": 46, "strength": 0.6}, image=photo, painted=mask)
    run("inpaint_full_cfg", "inpaint", FluxInpaintPipeline,
        {**size, "steps": 3, "guidance": 7.0, "seed": 47, "strength": 1.0, "true_cfg_scale": 2.0},
        negative=True, image=photo, painted=mask)
    # The first fits its surroundings to the ratio, the others cannot and get bars: above and below, left and right.
    tall = np.ascontiguousarray(photo.transpose(1, 0, 2))
    for name, picture, box in (
        ("inpaint_crop", photo, (5, 40, 20, 70)), ("inpaint_crop_wide", photo, (5, 40, 0, 100)), ("inpaint_crop_high", tall, (0, 100, 30, 50)),
    ):
        painted = np.zeros(picture.shape[:2], np.uint8)
        painted[box[0]:box[1], box[2]:box[3]] = 255
        run(name, "inpaint", FluxInpaintPipeline,
            {**size, "steps": 2, "guidance": 7.0, "seed": 48, "strength": 0.5, "padding_mask_crop": 4}, image=picture, painted=painted)
    folder.write()


# --- tables that need no net -------------------------------------------------------------------------------------------


def bits(tensor):
    kind = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}[tensor.dtype]
    return tensor.reshape(-1).view(kind).numpy()


def summary(tensor):
    """The first four and the last value's bits and a checksum of all, little endian."""
    raw = bits(tensor)
    words = [f"{int(v) & (0xFFFFFFFF if raw.itemsize == 4 else 0xFFFF):x}" for v in (*raw[:4], raw[-1])]
    return {"bits": words, "crc32": zlib.crc32(raw.astype(raw.dtype.newbyteorder("<")).tobytes())}


def random_numbers(path):
    single, several, half = [], [], []
    for seed in (0, 1, 42, 123456789, 2**32 - 1, 2**32 + 7, 2**63 - 1, -5):
        for n in (1, 2, 15, 16, 17, 31, 32, 33, 1000, 65535, 65536):
            single.append({"seed": seed, "n": n, "dtype": "f32", **summary(draw((n,), seed))})
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "f16")):
        for n in (3, 16, 17, 31, 396, 16 * 64 * 64):
            g = torch.Generator("cpu").manual_seed(42)
            single.append({"seed": 42, "n": n, "dtype": name, **summary(torch.randn(n, generator=g, dtype=dtype))})
        g = torch.Generator("cpu").manual_seed(7)
        for n in (396, 3, 17, 64):
            half.append({"n": n, "dtype": name, **summary(torch.randn(n, generator=g, dtype=dtype))})
    g = torch.Generator("cpu").manual_seed(7)
    for shape in ((1, 16, 8, 8), (3,), (1, 16, 9, 7), (5,), (1, 4, 128, 128), (1,), (1, 16, 128, 128)):
        several.append({"n": math.prod(shape), **summary(torch.randn(shape, generator=g))})
    rows = lambda table: "[\n  " + ",\n  ".join(map(json.dumps, table)) + "\n ]"
    path.write_text(
        f'{{\n "made_with": {json.dumps(VERSIONS)},\n "single": {rows(single)},\n "one_generator": {{"seed": 7, "draws": {rows(several)}}},\n "halves": {{"seed": 7, "draws": {rows(half)}}}\n}}\n'
    )


CORPUS = """
a bottle of cold water on a wooden table in the morning light
two bottles of perfume on white marble, soft shadows, studio light
the old harbour at dusk, lanterns on the water, a small red boat
running shoes on wet asphalt, neon signs, rain, night
a cup of coffee and a book by the window, it's raining outside
fresh lemons in a blue bowl, linen cloth, bright kitchen
we'll drink tea under the trees, they've brought bread and cheese
mountains above the clouds, first snow, a lone hut, smoke
a watch of brushed steel, black background, sharp reflections
wild flowers in a glass vase, afternoon sun, dust in the air
새벽 바다 위의 작은 배, 부드러운 빛
나무 탁자 위의 물병, 맑은 아침
100 ml, 25 % off, 3 for 2, since 1987
""".strip().splitlines()
PROMPTS = [
    "a bottle of perfume on a wooden table",
    "  The  OLD\tharbour, it's 1987!  ",
    "caf\u0065\u0301 & cr\u00e8me \u2014 na\u00efve",
    "부드러운 빛, 새벽 바다",
    "rain<|endoftext|>night",
    "we'll drink tea 🍵 under the trees",
    "",
    " ".join(CORPUS),
]


def tokenizers(root):
    """Two tiny tokenizers in the checkpoints' file layout, and transformers' ids for PROMPTS."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE, Unigram
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer, UnigramTrainer
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    lines = [line.lower() for line in CORPUS] * 3
    clip = root / "clip"
    clip.mkdir(parents=True, exist_ok=True)
    # CLIP's vocabulary is 256 bytes, the same with </w>, the merges in order, and the two specials; a trainer gives the merges.
    words = Tokenizer(BPE(end_of_word_suffix="</w>"))
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    words.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "removed", invert=True), ByteLevel(add_prefix_space=False)])
    alphabet = sorted(ByteLevel.alphabet())
    words.train_from_iterator(lines, BpeTrainer(
        vocab_size=760, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False))
    merges = [tuple(pair) for pair in json.loads(words.to_str())["model"]["merges"]]
    known = alphabet + [letter + "</w>" for letter in alphabet]
    kept = []
    for left, right in merges:
        if left in known and right in known and left + right not in known:
            kept.append((left, right))
            known.append(left + right)
    vocabulary = {token: i for i, token in enumerate([*known, "<|startoftext|>", "<|endoftext|>"])}
    (clip / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    (clip / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in kept))
    (clip / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "pad_token": "<|endoftext|>"}) + "\n")

    t5 = root / "t5"
    t5.mkdir(parents=True, exist_ok=True)
    pieces = Tokenizer(Unigram())
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    pieces.train_from_iterator(CORPUS * 3, UnigramTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    pieces.save(str(t5 / "tokenizer.json"), pretty=False)

    fast = PreTrainedTokenizerFast(tokenizer_file=str(t5 / "tokenizer.json"), eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    slow = CLIPTokenizer.from_pretrained(clip)
    rows = []
    for text in PROMPTS:
        arguments = {"padding": "max_length", "truncation": True}
        rows.append({
            "text": text,
            "clip": slow(text, max_length=77, **arguments).input_ids,
            "t5": fast(text, max_length=48, **arguments).input_ids,
        })
    assert len(rows[-1]["t5"]) == 48 and rows[-1]["t5"][-1] == 1, "the last prompt is cut and keeps its end"
    (root / "ids.json").write_text("[\n " + ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


def distances(path):
    table = T5Attention._relative_position_bucket(torch.arange(-600, 601)).tolist()
    path.write_text(json.dumps({"from": -600, "buckets": table}) + "\n")


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "handler_tests/goldens")
    torch.set_num_threads(1)
    assert struct.calcsize("f") == 4 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"), "torch's other CPU paths draw other bits"
    root.mkdir(parents=True, exist_ok=True)
    random_numbers(root / "randn.json")
    distances(root / "t5_buckets.json")
    # The trainers break ties differently in each run; delete the folder for new ones.
    if not (root / "tokenizers").exists():
        tokenizers(root / "tokenizers")
    stages(root / "stages")
    halves(root / "halves")
    pipelines(root / "pipelines")


if __name__ == "__main__":
    main()
