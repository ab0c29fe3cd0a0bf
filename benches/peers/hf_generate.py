"""Throughput of transformers' generate() on a static batch; one JSON line a repetition (fields: README.md).

    python benches/peers/hf_generate.py MODEL_DIR [--gguf FILE] [--batch 1,8,32] [--dtype f32] [--threads 2]
"""

import argparse
import json
import os
import resource
import time

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--gguf", help="a GGUF file inside MODEL_DIR")
parser.add_argument("--batch", default="32", help="batch sizes, separated by commas")
parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
parser.add_argument("--prompt", type=int, default=128)
parser.add_argument("--new", type=int, default=64)
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

torch.set_num_threads(options.threads)
torch.manual_seed(1)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
extra = {"gguf_file": options.gguf} if options.gguf else {}
model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, **extra).eval()
model.generation_config.pad_token_id = 2


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def generate(ids, new):
    started, busy = time.monotonic(), cpu()
    with torch.no_grad():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
    return time.monotonic() - started, cpu() - busy


top = min(model.config.vocab_size, 41000)
generate(torch.randint(top // 40, top, (1, 16)), 4)
for rows in map(int, options.batch.split(",")):
    for repetition in range(options.repetitions):
        ids = torch.randint(top // 40, top, (rows, options.prompt))
        first, _ = generate(ids, 1)  # the prefill and one token
        wall, busy = generate(ids, options.new)
        line = {
            "engine": f"transformers {options.dtype}",
            "rows": rows,
            "rep": repetition,
            "prefill_tok_s": round(rows * options.prompt / first, 1),
            "decode_tok_s": round(rows * (options.new - 1) / (wall - first), 1),
            "new_tok_s": round(rows * options.new / wall, 1),
            "wall_s": round(wall, 2),
            "cpu_share": round(busy / wall / options.threads, 2),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "load": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(line), flush=True)
