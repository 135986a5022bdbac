#!/usr/bin/env python3
"""Times every stage in the original libraries, eager and compiled, and marquee's `bench` in the same run, and prints ratios.

    python3 scripts/gpu/peer_steps.py --marquee target/release/marquee --original CHECKOUT --output docs/measurements/steps.json

Stages are `marquee bench`'s, under its names, at the published sizes with random weights (no files are needed), inputs that
differ from round to round, 1024 x 1024, batch 1. The peers: diffusers and transformers as they come (eager, NCHW), and compiled as
their documentation advises: `compile_repeated_blocks` for FLUX, `torch.compile` with channels last for UNet, ControlNet and
VAE, `torch.compile` for the text encoders; BiRefNet is the repository's own code (`--original`, see birefnet_original.py), whose
deformable convolutions cannot be compiled whole. Medians of `--repeats` rounds, the device synchronised before each reading; the
first (compiling) call apart. A stage that fails leaves its error in place of figures.
Needs a GPU with 40 GB, torch, diffusers, transformers; six minutes with all compiled, one and a half without (`--compile ''`).
"""

import argparse
import copy
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import comparison
import make_full_size as sizes

# Milliseconds to reach on one H200, for those stages that have a goal.
GOALS = {"flux-step": 110, "sdxl-controlnet-step": 42, "vae-decode": 28, "vae-encode": 15, "t5": 12, "birefnet": 25}
VARIANTS = 4


class Bench:
    def __init__(self, args):
        self.args, self.device = args, torch.device(args.device)
        self.generator = torch.Generator(self.device).manual_seed(args.seed)
        configs = [copy.deepcopy(c) for c in (sizes.FLUX, sizes.FLUX_VAE, sizes.CLIP_L, sizes.T5, sizes.UNET, sizes.CONTROLNET, sizes.BIG_G, sizes.SDXL_VAE)]
        if args.small:
            sizes.shrink(configs)
        self.flux, self.flux_vae, self.clip, self.t5, self.unet, self.controlnet, self.big_g, self.sdxl_vae = configs

    def net(self, kind, make, dtype):
        """A net of random weights on the device."""
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                net = make().eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(torch.float32)
        net = net.to(self.device, dtype)
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                std, mean = sizes.scale_and_shift(kind, key, value.shape)
                value.normal_(mean, std, generator=self.generator)
        return net

    def randn(self, *shape, dtype):
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=torch.float32).to(dtype)

    def inputs(self, make):
        """Several inputs, so that no cache serves one round from another."""
        return [make() for _ in range(VARIANTS)]


def flux_step(bench):
    from diffusers import FluxTransformer2DModel

    half = torch.bfloat16
    net = bench.net("transformer", lambda: FluxTransformer2DModel(**bench.flux), half)
    rows, columns = bench.args.height // 16, bench.args.width // 16
    text = bench.randn(1, 512, bench.flux["joint_attention_dim"], dtype=half)
    pooled = bench.randn(1, bench.flux["pooled_projection_dim"], dtype=half)
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None, :]
    ids = ids.reshape(-1, 3).to(bench.device, half)
    text_ids = torch.zeros(512, 3, device=bench.device, dtype=half)
    guidance = torch.full((1,), 3.5, device=bench.device)
    inputs = bench.inputs(lambda: (bench.randn(1, rows * columns, 64, dtype=half), torch.rand(1, generator=bench.generator, device=bench.device).to(half)))

    def run(latents, time_):
        noise = net(
            hidden_states=latents, timestep=time_, guidance=guidance, pooled_projections=pooled, encoder_hidden_states=text,
            txt_ids=text_ids, img_ids=ids, return_dict=False,
        )[0]
        return (latents.float() - 0.04 * noise).to(half)

    return "bf16", run, inputs, lambda: net.compile_repeated_blocks(fullgraph=True)


def sdxl_controlnet_step(bench):
    from diffusers import ControlNetModel, UNet2DConditionModel

    half = torch.float16
    unet = bench.net("unet", lambda: UNet2DConditionModel(**bench.unet), half)
    controlnet = bench.net("controlnet", lambda: ControlNetModel(**bench.controlnet), half)
    nets = {"unet": unet, "controlnet": controlnet}
    height, width = bench.args.height, bench.args.width
    text = bench.randn(2, 77, bench.unet["cross_attention_dim"], dtype=half)
    pooled = bench.unet["projection_class_embeddings_input_dim"] - 6 * bench.unet["addition_time_embed_dim"]
    added = {
        "text_embeds": bench.randn(2, pooled, dtype=half),
        "time_ids": torch.tensor([[height, width, 0, 0, height, width]] * 2, device=bench.device, dtype=half),
    }
    condition = torch.rand(2, 3, height, width, generator=bench.generator, device=bench.device).to(half)
    inputs = bench.inputs(lambda: (
        bench.randn(1, 4, height // 8, width // 8, dtype=half),
        torch.rand((), generator=bench.generator, device=bench.device) * 999,
    ))

    def run(latents, time_):
        sample = torch.cat([latents, latents])
        down, middle = nets["controlnet"](
            sample, time_, encoder_hidden_states=text, controlnet_cond=condition, conditioning_scale=1.0,
            added_cond_kwargs=added, return_dict=False,
        )
        noise = nets["unet"](
            sample, time_, encoder_hidden_states=text, added_cond_kwargs=added, down_block_additional_residuals=down,
            mid_block_additional_residual=middle, return_dict=False,
        )[0]
        away, towards = noise.chunk(2)
        return (latents.float() - 0.04 * (away + 5.0 * (towards - away)).float()).to(half)

    def compile_():
        for name, net in nets.items():
            nets[name] = torch.compile(net.to(memory_format=torch.channels_last), fullgraph=True)

    return "f16", run, inputs, compile_


def vae(bench, config, dtype, encode):
    from diffusers import AutoencoderKL

    net = bench.net("vae", lambda: AutoencoderKL(**config), dtype)
    height, width = bench.args.height, bench.args.width
    shape = (1, 3, height, width) if encode else (1, config["latent_channels"], height // 8, width // 8)
    inputs = bench.inputs(lambda: (bench.randn(*shape, dtype=dtype),))
    calls = {"run": (lambda x: net.encode(x).latent_dist.mean) if encode else (lambda x: net.decode(x, return_dict=False)[0])}

    def compile_():
        net.to(memory_format=torch.channels_last)
        calls["run"] = torch.compile(calls["run"], fullgraph=True)

    return str(dtype).split(".")[-1], lambda x: calls["run"](x), inputs, compile_


def text(bench, kind, make, dtype, vocabulary, words):
    net = bench.net(kind, make, dtype)
    calls = {"run": net}
    inputs = bench.inputs(lambda: (torch.randint(2, vocabulary, (1, words), generator=bench.generator, device=bench.device),))

    def compile_():
        calls["run"] = torch.compile(net)

    more = {} if kind == "t5" else {"output_hidden_states": True}
    return str(dtype).split(".")[-1], lambda ids: calls["run"](ids, **more)[0], inputs, compile_


def t5(bench):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**bench.t5)
    return text(bench, "t5", lambda: T5EncoderModel(config), torch.bfloat16, config.vocab_size, 512)


def clip(bench):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(**bench.clip)
    return text(bench, "clip_sdxl", lambda: CLIPTextModel(config), torch.bfloat16, config.vocab_size, 77)


def clip_bigg(bench):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(**bench.big_g)
    return text(bench, "clip_sdxl", lambda: CLIPTextModelWithProjection(config), torch.float16, config.vocab_size, 77)


def birefnet(bench):
    import birefnet_original as original

    if bench.args.original is None:
        raise RuntimeError("no --original CHECKOUT")
    small = {"embed_dim": 12, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 12}
    with bench.device:
        net = original.build(bench.args.original, small if bench.args.small else None)
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            kind, scale, shift = original.recipe(key, value.shape)
            drawn = torch.randn(value.shape, generator=bench.generator, device=bench.device)
            value.copy_((drawn.abs() if kind == "abs_randn" else drawn) * scale + shift)
    net = net.half()
    edge = bench.args.height
    inputs = bench.inputs(lambda: (bench.randn(1, 3, edge, edge, dtype=torch.float16),))
    calls = {"run": net}

    def compile_():
        calls["run"] = torch.compile(net)

    return "f16", lambda x: calls["run"](x)[-1], inputs, compile_


STAGES = {
    "flux-step": flux_step,
    "sdxl-controlnet-step": sdxl_controlnet_step,
    "vae-decode": lambda bench: vae(bench, bench.flux_vae, torch.bfloat16, False),
    "vae-encode": lambda bench: vae(bench, bench.flux_vae, torch.bfloat16, True),
    "sdxl-vae-decode": lambda bench: vae(bench, bench.sdxl_vae, torch.float16, False),
    "t5": t5,
    "clip": clip,
    "clip-bigg": clip_bigg,
    "birefnet": birefnet,
}


def rounds(bench, run, inputs):
    """First call, then medians."""
    comparison.reset_peak(bench.device)
    _, first = comparison.timed(bench.device, lambda: run(*inputs[0]))
    for index in range(2):
        run(*inputs[index % len(inputs)])
    times = [comparison.timed(bench.device, lambda i=i: run(*inputs[i % len(inputs)]))[1] for i in range(bench.args.repeats)]
    return {
        "first_ms": first, "median_ms": comparison.median(times), "min_ms": min(times), "max_ms": max(times),
        "repeats": len(times), "peak_memory_bytes": comparison.peak(bench.device),
    }


def peer(bench, name, compiled):
    row = {"stage": name}
    try:
        with torch.no_grad():
            row["dtype"], run, inputs, compile_ = STAGES[name](bench)
            row["eager"] = rounds(bench, run, inputs)
            if compiled:
                started = time.perf_counter()
                compile_()
                row["compiled"] = rounds(bench, run, inputs)
                row["compiled"]["compile_s"] = time.perf_counter() - started
    except Exception as error:  # noqa: BLE001: one stage's trouble must not cost the others' figures
        row["error"] = f"{type(error).__name__}: {error}"[:500]
    torch.compiler.reset()
    gc.collect()
    comparison.reset_peak(bench.device)
    return row


def own(args, stages):
    """`marquee bench`'s measurements by stage."""
    words = [args.marquee, "bench", "--stage", ",".join(stages), "--width", str(args.width), "--height", str(args.height)]
    words += ["--repeats", str(args.repeats), "--model", "tiny" if args.small else "random"]
    environment = dict(os.environ, DEVICE=args.device)
    try:
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=args.timeout)
        report = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        print(f"{' '.join(words)}: {error}", file=sys.stderr)
        return {}
    return {row["stage"]: row for row in report["measurements"]} | {"": report}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default=",".join(STAGES), help="which, separated by commas")
    parser.add_argument("--compile", default="flux-step,sdxl-controlnet-step,vae-decode,vae-encode,t5", help="which of them are compiled too")
    parser.add_argument("--marquee", help="the program; without it only the peers run")
    parser.add_argument("--original", type=Path, metavar="CHECKOUT", help="BiRefNet's repository")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for marquee")
    parser.add_argument("--small", action="store_true", help="small nets, to try this script")
    args = parser.parse_args()
    stages = args.stage.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"--stage: unknown {', '.join(sorted(unknown))}; expected {', '.join(STAGES)}")
    if args.repeats < 7:
        parser.error("--repeats: at least 7")

    bench = Bench(args)
    measured = own(args, stages) if args.marquee else {}
    rows = []
    for name in stages:
        row = peer(bench, name, name in args.compile.split(","))
        if found := measured.get(name):
            row["marquee"] = found
        rows.append(row)
        print(json.dumps(row), file=sys.stderr)
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu"
    report = {
        "device": device, "date": time.strftime("%Y-%m-%d"), "width": args.width, "height": args.height,
        "versions": {name: comparison.version(name) for name in ("torch", "diffusers", "transformers", "torchvision")},
        "weights": "random, small" if args.small else "random, published sizes",
        "ceilings": measured.get("", {}).get("ceilings"), "stages": rows,
    }
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{device}, {args.width} x {args.height}, milliseconds")
    print(f"{'stage':22}{'eager':>9}{'compiled':>10}{'marquee':>9}{'of eager':>10}{'of compiled':>12}{'goal (H200)':>12}")
    for row in rows:
        times = [(row.get(side) or {}).get("median_ms") for side in ("eager", "compiled", "marquee")]
        eager, compiled, marquee = times
        ratio = lambda other: f"{marquee / other:.2f}" if marquee and other else "-"
        cells = [f"{value:.1f}" if value else "-" for value in times]
        print(f"{row['stage']:22}{cells[0]:>9}{cells[1]:>10}{cells[2]:>9}{ratio(eager):>10}{ratio(compiled):>12}{GOALS.get(row['stage'], '-'):>12}")
        for error in (row.get("error"), (row.get("marquee") or {}).get("error")):
            if error:
                print(f"  {error}")
    failed = any("error" in row or "error" in (row.get("marquee") or {}) for row in rows)
    return 1 if failed or (args.marquee and not measured) else 0


if __name__ == "__main__":
    sys.exit(main())
