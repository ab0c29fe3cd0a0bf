"""Throughput of transformers' generate() on a static batch; one JSON line a repetition (fields: README.md).

    python benches/peers/hf_generate.py MODEL_DIR [--gguf FILE] [--batch 1,8,32] [--dtype f32] [--threads 2]
    python benches/peers/hf_generate.py CONFIG_DIR --random --device cuda --dtype bf16 --name 1.5B --seconds 60

--random makes random weights for MODEL_DIR's config.json: they are as fast as others. The prompts are those of benches/shared/speed.rs.
"""

import argparse
import json
import os
import resource
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--name", help="how the lines call the model")
parser.add_argument("--gguf", help="a GGUF file inside MODEL_DIR")
parser.add_argument("--random", action="store_true", help="random weights")
parser.add_argument("--device", default="cpu", help="as torch names it; auto: cuda where there is one")
parser.add_argument("--batch", default="32", help="batch sizes, separated by commas")
parser.add_argument("--dtype", default="f32", choices=["f32", "bf16", "auto"], help="auto: bf16 on cuda, else f32")
parser.add_argument("--prompt", type=int, default=128)
parser.add_argument("--new", type=int, default=64)
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no repetition after them")
options = parser.parse_args()

begun = time.monotonic()
torch.set_num_threads(options.threads)
torch.manual_seed(1)
device = options.device
if device == "auto":
    device = "cuda" if torch.cuda.is_available() else "cpu"
on_card = device.startswith("cuda")
kind = options.dtype if options.dtype != "auto" else "bf16" if on_card else "f32"
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]
if options.random:
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(options.model))
else:
    extra = {"gguf_file": options.gguf} if options.gguf else {}
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, **extra)
model = model.to(device=device, dtype=dtype).eval()
model.generation_config.pad_token_id = 2


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def generate(ids, new):
    if on_card:
        torch.cuda.synchronize()
    started, busy = time.monotonic(), cpu()
    with torch.no_grad():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
    if on_card:
        torch.cuda.synchronize()
    return time.monotonic() - started, cpu() - busy


def prompts(rows):
    """Rows of token ids that share no prefix."""
    vocabulary = model.config.vocab_size - 20
    return torch.tensor(
        [[20 + (r * 7919 + i * 104729 + i * i * r) % vocabulary for i in range(options.prompt)] for r in range(rows)],
        device=device,
    )


generate(prompts(1)[:, :16], 4)
for rows in map(int, options.batch.split(",")):
    ids = prompts(rows)
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    for repetition in range(options.repetitions):
        if time.monotonic() - begun > options.seconds:
            break
        first, _ = generate(ids, 1)  # the prefill and one token
        wall, busy = generate(ids, options.new)
        line = {
            "engine": f"transformers {kind}",
            **({"model": options.name} if options.name else {}),
            "device": device,
            "rows": rows,
            "rep": repetition,
            "prefill_tok_s": round(rows * options.prompt / first, 1),
            "decode_tok_s": round(rows * (options.new - 1) / (wall - first), 1),
            "new_tok_s": round(rows * options.new / wall, 1),
            "wall_s": round(wall, 2),
            "cpu_share": round(busy / wall / options.threads, 2),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "load": round(os.getloadavg()[0], 1),
            **({"device_peak_mb": torch.cuda.max_memory_reserved() >> 20} if on_card else {}),
        }
        print(json.dumps(line), flush=True)
