#!/usr/bin/env python3
"""Holds marquee's SDXL with ControlNet against diffusers' on the same files, inputs and token ids.

    python3 scripts/gpu/make_full_size.py /tmp/marquee-full --only sdxl,controlnet
    python3 scripts/gpu/compare_sdxl.py /tmp/marquee-full --program target/release/examples/sdxl_measure \\
        --output docs/measurements/sdxl-parity-h200.json

diffusers runs in f16 and, as the reference, in f32 with TF32 off; marquee in f16 and f32.

* One prediction (classifier-free guidance: batch 2) from diffusers' f16 embeddings, without and with the ControlNet, the text
  embeddings, and a decoded picture: marquee's f16 error against f32 may be at most 1.1 times diffusers' own; f32 against f32
  1e-4.
* The picture of 30 steps from token ids: PSNR against the f32 picture, at least diffusers' f16 PSNR minus 1 dB.
* Peak memory of marquee's denoise stage (UNet, ControlNet, activations, context) by the driver's count: at most 9 GiB.
* Times: median step, encoders, decoding.

Exits 1 on a miss. Needs a GPU with 40 GB, torch, diffusers, transformers; about two minutes.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
import comparison
import make_full_size

MEMORY_BYTES = 9 * comparison.GIB
TIMESTEP = 481.0


def token_ids(folder, seed, words=20):
    """Two prompts of random words, framed and padded as both tokenizers do: (positive, negative) of (first, second)."""
    config = json.loads((folder / "text_encoder/config.json").read_text())
    end = config["vocab_size"] - 1
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for count in (words, words // 2):
        chosen = torch.randint(10, end - 1, (count,), generator=generator)
        pair = []
        for pad in (end, 0):
            row = torch.full((1, 77), pad)
            row[0, 0] = end - 1
            row[0, 1 : count + 1] = chosen
            row[0, count + 1] = end
            pair.append(row)
        rows.append(pair)
    return rows


def edges(width, height):
    """Outlines of boxes and circles, bright on black."""
    y, x = np.mgrid[0:height, 0:width]
    lines = np.zeros((height, width), bool)
    for centre_x, centre_y, radius in ((0.3, 0.3, 0.2), (0.7, 0.6, 0.25), (0.5, 0.8, 0.1)):
        distance = np.hypot(x - centre_x * width, y - centre_y * height)
        lines |= np.abs(distance - radius * width) < 1.5
    lines |= (np.abs(x - width // 4) < 2) & (y > height // 3)
    return np.repeat((lines * 255).astype(np.uint8)[..., None], 3, 2)


class Diffusers:
    def __init__(self, folder, controlnet, device, args):
        from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, StableDiffusionXLControlNetPipeline, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        self.device, self.args = device, args
        half = torch.float16

        def load():
            return {
                "unet": UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=half),
                "vae": AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=half),
                "controlnet": ControlNetModel.from_pretrained(controlnet, torch_dtype=half),
                "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=half),
                "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", dtype=half),
            }

        (nets, self.load_ms) = comparison.timed(device, lambda: {name: net.to(device) for name, net in load().items()})
        scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        self.pipe = StableDiffusionXLControlNetPipeline(
            scheduler=scheduler, tokenizer=None, tokenizer_2=None, add_watermarker=False, **nets
        )
        self.pipe.set_progress_bar_config(disable=True)

    def widen(self):
        for name in ("unet", "vae", "controlnet", "text_encoder", "text_encoder_2"):
            getattr(self.pipe, name).to(torch.float32)

    @property
    def dtype(self):
        return self.pipe.unet.dtype

    @torch.no_grad()
    def encode(self, ids):
        first, second = (row.to(self.device) for row in ids)
        left = self.pipe.text_encoder(first, output_hidden_states=True).hidden_states[-2]
        right = self.pipe.text_encoder_2(second, output_hidden_states=True)
        return torch.cat([left, right.hidden_states[-2]], -1).to(self.dtype), right.text_embeds.to(self.dtype)

    def to(self, tensor):
        return tensor.to(self.device, self.dtype)

    def conditioning(self, positive, negative):
        text = self.to(torch.cat([negative[0], positive[0]]))
        pooled = self.to(torch.cat([negative[1], positive[1]]))
        width, height = self.args.width, self.args.height
        ids = self.to(torch.tensor([[height, width, 0, 0, height, width]] * 2, dtype=torch.float32))
        return text, {"text_embeds": pooled, "time_ids": ids}

    @torch.no_grad()
    def predict(self, positive, negative, sample, control):
        text, added = self.conditioning(positive, negative)
        sample, timestep = self.to(sample), torch.tensor(TIMESTEP, device=self.device)
        condition = self.to(torch.from_numpy(control).permute(2, 0, 1)[None].float() / 255).repeat(2, 1, 1, 1)
        plain = self.pipe.unet(sample, timestep, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]
        down, middle = self.pipe.controlnet(
            sample, timestep, encoder_hidden_states=text, controlnet_cond=condition,
            conditioning_scale=self.args.control_scale, added_cond_kwargs=added, return_dict=False,
        )
        steered = self.pipe.unet(
            sample, timestep, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False,
            down_block_additional_residuals=down, mid_block_additional_residual=middle,
        )[0]
        return {"plain": plain.cpu(), "middle": middle.cpu(), "prediction": steered.cpu()}

    @torch.no_grad()
    def denoise(self, positive, negative, noise, control):
        marks = []

        def mark(pipe, index, timestep, values):
            comparison.sync(self.device)
            marks.append(time.perf_counter())
            return values

        args = self.args
        latents = self.pipe(
            prompt_embeds=self.to(positive[0]), pooled_prompt_embeds=self.to(positive[1]),
            negative_prompt_embeds=self.to(negative[0]), negative_pooled_prompt_embeds=self.to(negative[1]),
            image=Image.fromarray(control), latents=self.to(noise), width=args.width, height=args.height,
            num_inference_steps=args.steps, guidance_scale=args.guidance, controlnet_conditioning_scale=args.control_scale,
            output_type="latent", callback_on_step_end=mark,
        ).images
        return latents, [1e3 * (b - a) for a, b in zip(marks, marks[1:])]

    @torch.no_grad()
    def decode(self, latents):
        vae = self.pipe.vae
        return vae.decode(self.to(latents) / vae.config.scaling_factor, return_dict=False)[0]


def to_bytes(pixels):
    return (pixels[0].float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).mul(255).round().to(torch.uint8).cpu()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with `sdxl` and `controlnet`; what is missing is written")
    parser.add_argument("--program", required=True, help="the example sdxl_measure")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--control-scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", default="f16,f32", help="marquee's")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one run of marquee")
    parser.add_argument("--small", action="store_true", help="small nets, to try this script")
    args = parser.parse_args()

    comparison.exact_f32()
    make_full_size.ensure(args.root, ["sdxl", "controlnet"], args.device, small=args.small)
    folder, controlnet = args.root / "sdxl", args.root / "controlnet"
    device = torch.device(args.device)
    work = Path(tempfile.mkdtemp(prefix="compare-sdxl-"))
    (positive_ids, negative_ids) = token_ids(folder, args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    shape = (1, 4, args.height // 8, args.width // 8)
    # Rounded once, so that both precisions start from the same numbers.
    noise, sample, decode_latents = (torch.randn(shape, generator=generator).half() for _ in range(3))
    sample = sample.repeat(2, 1, 1, 1)
    control = edges(args.width, args.height)

    peer = Diffusers(folder, controlnet, device, args)
    results, rows, shared = {}, {}, None
    for dtype in ("f16", "f32"):
        name = f"diffusers {dtype}"
        if dtype == "f32":
            peer.widen()
        peer.encode(positive_ids)
        (positive, encode_ms) = comparison.timed(device, lambda: peer.encode(positive_ids))
        negative = peer.encode(negative_ids)
        if shared is None:
            shared = (positive, negative)
            request = work / "request.safetensors"
            tensors = {
                "clip_ids": positive_ids[0].int(), "clip_2_ids": positive_ids[1].int(),
                "negative_clip_ids": negative_ids[0].int(), "negative_clip_2_ids": negative_ids[1].int(),
                "prompt_embeds": positive[0], "pooled": positive[1],
                "negative_prompt_embeds": negative[0], "negative_pooled": negative[1],
                "control": torch.from_numpy(control), "sample": sample, "noise": noise, "decode_latents": decode_latents,
            }
            fields = ("width", "height", "steps", "guidance", "control_scale")
            metadata = {field: str(getattr(args, field)) for field in fields} | {"timestep": str(TIMESTEP)}
            save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, request, metadata=metadata)
        found = {"prompt_embeds": positive[0].cpu(), "pooled": positive[1].cpu()}
        found |= peer.predict(*shared, sample, control)
        peer.decode(decode_latents)
        decoded, decode_ms = comparison.timed(device, lambda: peer.decode(decode_latents))
        found["decoded"] = decoded.cpu()
        comparison.reset_peak(device)
        latents, steps = peer.denoise(positive, negative, noise, control)
        memory = comparison.peak(device)
        found |= {"latents": latents.cpu(), "image": to_bytes(peer.decode(latents))}
        results[name] = found
        rows[name] = {
            "encode_ms": encode_ms, "step_ms": comparison.median(steps), "decode_ms": decode_ms, "steps_timed": len(steps),
            "all_nets_peak_bytes": memory,
        }
        print(f"{name}: {rows[name]}", file=sys.stderr)
    rows["diffusers f16"]["load_ms"] = peer.load_ms
    del peer, positive, negative, shared, tensors, decoded, latents
    gc.collect()
    comparison.reset_peak(device)

    failures = []
    for dtype in args.dtypes.split(","):
        name = f"marquee {dtype}"
        words = [folder, controlnet, request]
        found, report = comparison.measured(args.program, words, dtype, args.device, args.timeout, work / f"{dtype}.safetensors")
        if found is None:
            failures.append(f"{name}: no result")
            continue
        results[name] = found
        laps, peaks = report["milliseconds"], report["peak_bytes"] or {}
        rows[name] = {
            # Both prompts.
            "encode_ms": laps["encode"] / 2, "step_ms": comparison.median(report["step_milliseconds"][1:]), "decode_ms": laps["decode"],
            "load_ms": laps["load_text_encoders"] + laps["load_unet_and_controlnet"] + laps["load_vae"],
            "denoise_peak_bytes": peaks.get("denoise"), "report": report,
        }

    reference = results["diffusers f32"]
    for name, found in results.items():
        if name != "diffusers f32":
            for stage in ("prompt_embeds", "pooled", "plain", "middle", "prediction", "decoded", "latents"):
                rows[name][f"{stage}_relative"] = comparison.relative(found[stage], reference[stage])
            rows[name]["psnr_db"] = comparison.psnr(found["image"], reference["image"])
        if not comparison.all_finite(found.values()):
            failures.append(f"{name}: numbers that are not finite")

    verdicts = {}
    if row := rows.get("marquee f16"):
        own = rows["diffusers f16"]
        for title, stage in (("text", "prompt_embeds"), ("pooled text", "pooled"), ("UNet", "plain"), ("ControlNet", "middle"), ("UNet and ControlNet", "prediction"), ("VAE", "decoded")):
            verdicts[f"{title}, f16"] = comparison.no_worse(row[f"{stage}_relative"], own[f"{stage}_relative"])
        verdicts[f"{args.steps} steps, f16: dB below diffusers"] = comparison.at_most(own["psnr_db"] - row["psnr_db"], comparison.PSNR_SLACK_DB)
        if row["denoise_peak_bytes"] is not None:
            verdicts["memory of the denoise stage, f16"] = comparison.at_most(row["denoise_peak_bytes"] / comparison.GIB, MEMORY_BYTES / comparison.GIB)
    if row := rows.get("marquee f32"):
        for stage in ("prompt_embeds", "prediction", "decoded"):
            verdicts[f"{stage}, f32"] = comparison.at_most(row[f"{stage}_relative"], comparison.F32_RELATIVE)
    report = {
        "checkpoint": "random weights of SDXL's and its ControlNet's size (scripts/gpu/make_full_size.py)",
        "width": args.width, "height": args.height, "steps": args.steps, "guidance": args.guidance, "seed": args.seed,
        "reference_picture_standard_deviation": reference["image"].float().std().item(), "rows": rows,
    }
    heads = {
        "text": "prompt_embeds_relative", "UNet": "plain_relative", "+ControlNet": "prediction_relative", "VAE": "decoded_relative",
        "PSNR dB": "psnr_db", "step ms": "step_ms", "encode ms": "encode_ms", "decode ms": "decode_ms", "load ms": "load_ms",
        "peak GiB": "denoise_peak_bytes",
    }
    return comparison.conclude(report, verdicts, failures, args.output, heads)


if __name__ == "__main__":
    sys.exit(main())
