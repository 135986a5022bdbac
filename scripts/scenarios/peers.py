#!/usr/bin/env python3
"""What a worker on diffusers needs for the same whole job: FLUX background, SDXL + ControlNet text, FLUX inpaint (no BiRefNet).

    scripts/scenarios/peers.py --models /tmp/marquee-full --modes resident,reload,offload --jobs 1

`resident`: every pipeline on the card from the start. `reload`: each step's models are loaded from the page cache, used, deleted,
as the Python worker did. `offload`: `enable_model_cpu_offload`. Prints JSON: seconds of each job, means, peaks of torch's own count.
"""

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PROMPTS = ("a wooden table in soft morning light", "a beach at noon, fine sand", "the old harbour at dusk, lanterns", "a marble shelf in a bathroom")


class Steps:
    """The three pipelines; `make` decides where they live."""

    def __init__(self, args):
        self.args = args

    def flux(self):
        from diffusers import FluxPipeline

        return FluxPipeline.from_pretrained(self.args.models / "flux", torch_dtype=torch.bfloat16)

    def sdxl(self):
        from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline

        net = ControlNetModel.from_pretrained(self.args.models / "controlnet", torch_dtype=torch.float16)
        return StableDiffusionXLControlNetPipeline.from_pretrained(self.args.models / "sdxl", controlnet=net, torch_dtype=torch.float16, add_watermarker=False)

    def inpaint(self, flux=None):
        from diffusers import FluxInpaintPipeline

        if flux is not None:
            return FluxInpaintPipeline(**flux.components)
        return FluxInpaintPipeline.from_pretrained(self.args.models / "flux", torch_dtype=torch.bfloat16)

    def paint(self, pipe, number):
        a = self.args
        generator = torch.Generator("cpu").manual_seed(number)
        return pipe(PROMPTS[number % len(PROMPTS)], width=a.size, height=a.size, num_inference_steps=a.bg_steps, guidance_scale=3.5, generator=generator).images[0]

    def text(self, pipe, number):
        a = self.args
        edges = np.zeros((a.size, a.size, 3), np.uint8)
        edges[a.size // 8 : a.size // 4, a.size // 8 : -a.size // 8 : 16] = 255
        generator = torch.Generator("cpu").manual_seed(number)
        return pipe(
            "gold foil balloon text", negative_prompt="floor, clutter", image=Image.fromarray(edges), width=a.size, height=a.size,
            num_inference_steps=a.text_steps, guidance_scale=5.0, generator=generator,
        ).images[0]

    def merge(self, pipe, number, background, text):
        a = self.args
        mask = Image.new("L", (a.size, a.size))
        mask.paste(255, (0, a.size // 16, a.size, a.size // 3))
        draft = Image.composite(text, background, mask)
        generator = torch.Generator("cpu").manual_seed(number)
        return pipe(
            PROMPTS[number % len(PROMPTS)], image=draft, mask_image=mask, width=a.size, height=a.size, strength=0.4,
            num_inference_steps=a.composition_steps, guidance_scale=3.5, generator=generator,
        ).images[0]


def free():
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def runner(mode, steps, device):
    """A function that runs one job."""
    quiet = lambda pipe: pipe.set_progress_bar_config(disable=True) or pipe
    if mode == "reload":

        def run(number):
            pipe = quiet(steps.flux().to(device))
            background = steps.paint(pipe, number)
            del pipe
            free()
            pipe = quiet(steps.sdxl().to(device))
            text = steps.text(pipe, number)
            del pipe
            free()
            pipe = quiet(steps.inpaint().to(device))
            steps.merge(pipe, number, background, text)
            del pipe
            free()

        return run
    flux, sdxl = quiet(steps.flux()), quiet(steps.sdxl())
    if mode == "offload":
        inpaint = quiet(steps.inpaint(flux))
        for pipe in (flux, sdxl, inpaint):
            pipe.enable_model_cpu_offload(device=device)
    else:
        flux, sdxl = flux.to(device), sdxl.to(device)
        inpaint = quiet(steps.inpaint(flux))

    def run(number):
        background = steps.paint(flux, number)
        text = steps.text(sdxl, number)
        if mode == "offload":
            # The pipelines share nets and hooks: what one left on the card goes before the next.
            sdxl.maybe_free_model_hooks()
        steps.merge(inpaint, number, background, text)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--modes", default="resident,reload,offload")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--bg-steps", type=int, default=25)
    parser.add_argument("--text-steps", type=int, default=30)
    parser.add_argument("--composition-steps", type=int, default=28)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    report = {"versions": {"torch": torch.__version__, "diffusers": diffusers.__version__}, "modes": {}}
    for mode in args.modes.split(","):
        if mode == "offload" and args.device == "cpu":
            report["modes"][mode] = {"error": "there is nothing to offload on a CPU"}
            continue
        row, run = {}, None
        try:
            begun = time.perf_counter()
            run = runner(mode, Steps(args), args.device)
            row["load_s"] = time.perf_counter() - begun
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = []
            for number in range(args.jobs + 1):
                begun = time.perf_counter()
                run(number)
                times.append(time.perf_counter() - begun)
            row |= {"first_s": times[0], "seconds": times[1:], "mean_s": statistics.mean(times[1:])}
            if args.device == "cuda":
                row["peak_bytes"] = torch.cuda.max_memory_reserved()
        except Exception as error:  # noqa: BLE001: a mode that cannot run must not cost the others' figures
            traceback.print_exc()
            row["error"] = f"{type(error).__name__}: {error}"[:500]
        del run
        free()
        report["modes"][mode] = row
        print(f"{mode}: {row}", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
