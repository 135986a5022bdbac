#!/usr/bin/env python3
"""Holds marquee's FLUX against diffusers' on the same files, seed and token ids, and prints what both are worth.

    python3 scripts/gpu/make_full_size.py /tmp/marquee-full --only flux
    python3 scripts/gpu/compare_flux.py /tmp/marquee-full/flux --program target/release/examples/flux_measure \\
        --output docs/measurements/flux-parity-h100.json

diffusers runs in bf16 and, as the reference, in f32 with TF32 off; marquee in bf16 and f32. Three comparisons:

* one prediction from the same prompt embeddings (diffusers' bf16 ones), noise and timestep: only the transformer counts.
  marquee's bf16 error against the f32 reference may be at most 1.1 times diffusers' own; f32 shows that the formulas agree
  (1e-4: both sum 12 288 products in orders of their own);
* the picture after all steps from token ids, each program with its own encoders and VAE: PSNR against the f32 picture, at
  least diffusers' bf16 PSNR minus 1 dB;
* times: median denoise step, encoders, VAE, loading from the page cache.

All runs start from the same latents, torch's f32 sequence rounded to bf16, which is also what marquee draws in bf16
(`own_noise_differs` counts the numbers that are not; torch < 2.13 draws bf16 by another rule). The guidance is 4 because
1000 times it is a bf16 number: at 3.5 both programs pass 3504 in bf16, and that error hides those of their arithmetic.
Exits 1 on a miss. Needs a GPU with 80 GB, torch, diffusers, transformers.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comparison import F32_RELATIVE, FACTOR, PSNR_SLACK_DB, exact_f32, measured, median, psnr, relative


def token_ids(seed):
    """A prompt of twenty words, framed and padded as the two tokenizers do."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1000, 30000, (20,), generator=generator)
    clip = torch.full((1, 77), 49407)
    clip[0, 0] = 49406
    clip[0, 1:21] = words
    t5 = torch.zeros(1, 512, dtype=torch.long)
    t5[0, :20] = words
    t5[0, 20] = 1
    return clip, t5


class Diffusers:
    def __init__(self, folder, device, args):
        from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
        from transformers import CLIPTextModel, T5EncoderModel

        self.device, self.args = device, args
        started = time.perf_counter()
        nets = {
            "transformer": FluxTransformer2DModel, "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel,
        }
        nets = {
            name: kind.from_pretrained(folder / name, **{"dtype" if "text" in name else "torch_dtype": torch.bfloat16}).to(device)
            for name, kind in nets.items()
        }
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        self.pipe = FluxPipeline(scheduler=scheduler, tokenizer=None, tokenizer_2=None, **nets)
        self.pipe.set_progress_bar_config(disable=True)
        self.sync()
        self.load_ms = 1e3 * (time.perf_counter() - started)

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, call):
        self.sync()
        started = time.perf_counter()
        result = call()
        self.sync()
        return result, 1e3 * (time.perf_counter() - started)

    def widen_encoders(self):
        self.pipe.text_encoder.to(torch.float32)
        self.pipe.text_encoder_2.to(torch.float32)

    def widen_denoiser(self):
        """In f32 all nets together would not fit 80 GB, so the encoders go first."""
        self.pipe.text_encoder = self.pipe.text_encoder_2 = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.pipe.transformer.to(torch.float32)
        self.pipe.vae.to(torch.float32)

    @torch.no_grad()
    def encode(self, clip_ids, t5_ids):
        clip, t5 = self.pipe.text_encoder, self.pipe.text_encoder_2
        pooled = clip(clip_ids.to(self.device)).pooler_output.to(clip.dtype)
        return t5(t5_ids.to(self.device))[0].to(t5.dtype), pooled

    @torch.no_grad()
    def predict(self, embeds, pooled, packed, rows, columns):
        dtype = self.pipe.transformer.dtype
        scheduler = self.pipe.scheduler
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        sigmas = torch.linspace(1.0, 1 / self.args.steps, self.args.steps).tolist()
        config = scheduler.config
        mu = calculate_shift(
            packed.shape[1], config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        scheduler.set_timesteps(sigmas=sigmas, mu=mu, device=self.device)
        timestep = scheduler.timesteps[:1].to(dtype)
        return self.pipe.transformer(
            hidden_states=packed.to(self.device, dtype),
            timestep=timestep / 1000,
            guidance=torch.full([1], self.args.guidance, device=self.device, dtype=torch.float32),
            pooled_projections=pooled.to(dtype),
            encoder_hidden_states=embeds.to(dtype),
            txt_ids=torch.zeros(embeds.shape[1], 3, device=self.device, dtype=dtype),
            img_ids=self.pipe._prepare_latent_image_ids(1, rows, columns, self.device, dtype),
            return_dict=False,
        )[0]

    @torch.no_grad()
    def picture(self, embeds, pooled, packed):
        """The u8 picture (height, width, 3) and the time of each step."""
        dtype = self.pipe.transformer.dtype
        marks = []

        def mark(pipe, index, timestep, kwargs):
            self.sync()
            marks.append(time.perf_counter())
            return kwargs

        latents = self.pipe(
            prompt_embeds=embeds, pooled_prompt_embeds=pooled, latents=packed.to(self.device, dtype),
            height=self.args.height, width=self.args.width, num_inference_steps=self.args.steps,
            guidance_scale=self.args.guidance, output_type="latent", callback_on_step_end=mark, max_sequence_length=512,
        ).images
        vae = self.pipe.vae

        def decode():
            unpacked = self.pipe._unpack_latents(latents, self.args.height, self.args.width, self.pipe.vae_scale_factor)
            unpacked = unpacked / vae.config.scaling_factor + vae.config.shift_factor
            return vae.decode(unpacked.to(vae.dtype), return_dict=False)[0]

        decode()
        pixels, decode_ms = self.timed(decode)
        image = (pixels[0].float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).mul(255).round().to(torch.uint8).cpu()
        steps = [1e3 * (b - a) for a, b in zip(marks, marks[1:])]
        return image, latents, steps, decode_ms


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint in diffusers' layout")
    parser.add_argument("--program", required=True, help="the example flux_measure")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures as PNG")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", default="bf16,f32", help="marquee's")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one run of marquee")
    args = parser.parse_args()

    exact_f32()
    device = torch.device(args.device)
    work = Path(tempfile.mkdtemp(prefix="compare-flux-"))
    rows, columns = args.height // 16, args.width // 16
    clip_ids, t5_ids = token_ids(args.seed)
    noise = torch.randn(1, 16, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(args.seed)).bfloat16()
    packed = noise.view(1, 16, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, rows * columns, 64)

    peer = Diffusers(args.folder, device, args)
    results = {}
    times = {"diffusers bf16": {"load_ms": peer.load_ms}, "diffusers f32": {}}
    shared = None
    for dtype in ("bf16", "f32"):
        name = f"diffusers {dtype}"
        if dtype == "f32":
            peer.widen_encoders()
        peer.encode(clip_ids, t5_ids)
        (embeds, pooled), encode_ms = peer.timed(lambda: peer.encode(clip_ids, t5_ids))
        if dtype == "f32":
            peer.widen_denoiser()
        if shared is None:
            shared = (embeds, pooled)
            request = work / "request.safetensors"
            tensors = {"clip_ids": clip_ids.int(), "t5_ids": t5_ids.int(), "prompt_embeds": embeds, "pooled": pooled, "latents": packed}
            tensors = {key: value.contiguous().cpu() for key, value in tensors.items()}
            fields = ("width", "height", "steps", "guidance", "seed")
            save_file(tensors, request, metadata={field: str(getattr(args, field)) for field in fields})
        prediction = peer.predict(*shared, packed, rows, columns)
        image, latents, steps, decode_ms = peer.picture(embeds, pooled, packed)
        results[name] = {
            "prompt_embeds": embeds.cpu(), "pooled": pooled.cpu(), "prediction": prediction.cpu(),
            "latents": latents.cpu(), "image": image,
        }
        times[name] |= {
            "encode_ms": encode_ms, "step_ms": median(steps), "decode_ms": decode_ms, "steps_timed": len(steps),
        }
        print(f"{name}: {times[name]}", file=sys.stderr)
    del peer, embeds, pooled, prediction, latents, shared, tensors
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

    for dtype in args.dtypes.split(","):
        name = f"marquee {dtype}"
        found, report = measured(args.program, [args.folder, request], dtype, args.device, args.timeout, work / f"{dtype}.safetensors")
        if found is None:
            continue
        results[name] = found
        laps = report["milliseconds"]
        # The first step of a process compiles kernels.
        times[name] = {
            "encode_ms": laps["encode"], "step_ms": median(report["step_milliseconds"][1:]),
            "decode_ms": laps["decode"], "steps_timed": len(report["step_milliseconds"]) - 1,
            "load_ms": laps["load_text_encoders"] + laps["load_transformer"] + laps["load_vae"], "report": report,
        }
        print(f"{name}: {report}", file=sys.stderr)

    reference = results["diffusers f32"]
    table = {}
    for name, found in results.items():
        row = dict(times[name])
        if name != "diffusers f32":
            for stage in ("prompt_embeds", "pooled", "prediction", "latents"):
                row[f"{stage}_relative"] = relative(found[stage], reference[stage])
            row["psnr_db"] = psnr(found["image"], reference["image"])
        if "noise" in found:
            row["own_noise_differs"] = (found["noise"].bfloat16().cpu() != packed).sum().item()
        if not all(torch.isfinite(found[stage].float()).all() for stage in ("prompt_embeds", "prediction", "latents")):
            row["not_finite"] = True
        table[name] = row

    verdicts = {}
    peer_row = table["diffusers bf16"]
    if row := table.get("marquee bf16"):
        verdicts["one step, bf16"] = {
            "factor": row["prediction_relative"] / peer_row["prediction_relative"],
            "at_most": FACTOR,
            "passed": row["prediction_relative"] <= FACTOR * peer_row["prediction_relative"],
        }
        verdicts[f"{args.steps} steps, bf16"] = {
            "difference_db": row["psnr_db"] - peer_row["psnr_db"],
            "at_least": -PSNR_SLACK_DB,
            "passed": row["psnr_db"] >= peer_row["psnr_db"] - PSNR_SLACK_DB,
        }
    if row := table.get("marquee f32"):
        verdicts["one step, f32"] = {
            "relative": row["prediction_relative"], "at_most": F32_RELATIVE,
            "passed": row["prediction_relative"] <= F32_RELATIVE,
        }
    missing = [d for d in args.dtypes.split(",") if f"marquee {d}" not in table]
    finite = not any(row.get("not_finite") for row in table.values())
    passed = finite and not missing and all(verdict["passed"] for verdict in verdicts.values())

    spread = reference["image"].float().std().item()
    report = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {name: __import__(name).__version__ for name in ("torch", "diffusers", "transformers")},
        "checkpoint": "random weights of FLUX.1-dev's size (scripts/gpu/make_full_size.py)",
        "width": args.width, "height": args.height, "steps": args.steps, "guidance": args.guidance, "seed": args.seed,
        "reference_picture_standard_deviation": spread,
        "rows": table, "verdicts": verdicts, "passed": passed,
    }
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    if args.pictures:
        from PIL import Image

        args.pictures.mkdir(parents=True, exist_ok=True)
        for name, found in results.items():
            picture = Image.fromarray(found["image"].cpu().numpy())
            picture.resize((256, 256)).save(args.pictures / f"{name.replace(' ', '-')}.png")

    columns = ("prompt_embeds_relative", "prediction_relative", "latents_relative", "psnr_db", "step_ms", "encode_ms", "decode_ms", "load_ms")
    heads = ("T5", "one step", "latents", "PSNR dB", "step ms", "encode ms", "decode ms", "load ms")
    print(f"{report['device']}, {args.width} x {args.height}, {args.steps} steps, against diffusers f32 (picture's deviation {spread:.1f})")
    print(f"{'':15}" + "".join(f"{head:>11}" for head in heads))
    for name, row in table.items():
        cells = []
        for column in columns:
            value = row.get(column)
            small = column.endswith("relative")
            cells.append("-" if value is None else f"{value:.2e}" if small else f"{value:.1f}")
        print(f"{name:15}" + "".join(f"{cell:>11}" for cell in cells))
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict}")
    if missing:
        print(f"no result from marquee in {', '.join(missing)}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
