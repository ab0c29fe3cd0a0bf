"""LoRA fine-tuning with transformers + peft, f32, two threads: tokens per second, one JSON line.

    python benches/peers/peft_sft.py [--rank 8] [--length 160] [--answer 60] [--batch 6] [--steps 6] [--threads 2] [--dropout 0]

Weights are random with SmolLM2-135M's shape: speed does not depend on what they say. Prompt tokens are masked; all seven
kinds of linear layers have an adapter, as in jobs/weekly.toml. Wants `pip install torch transformers peft`.
"""

import argparse
import json
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name, default in [("rank", 8), ("length", 160), ("answer", 60), ("batch", 6), ("steps", 6), ("threads", 2)]:
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--dropout", type=float, default=0.0)
o = parser.parse_args()
torch.set_num_threads(o.threads)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True,
)
targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = LlamaForCausalLM(config).float()
lora = LoraConfig(r=o.rank, lora_alpha=2 * o.rank, lora_dropout=o.dropout, target_modules=targets, task_type="CAUSAL_LM")
model = get_peft_model(model, lora)
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
times = []
for _ in range(o.steps):
    tokens = torch.randint(100, 49000, (o.batch, o.length))
    labels = tokens.clone()
    labels[:, : o.length - o.answer] = -100
    started = time.perf_counter()
    model(input_ids=tokens, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter() - started)
# The first step also allocates.
rest = sorted(times[1:] or times)
rate = o.batch * o.length / rest[len(rest) // 2]
print(json.dumps({"engine": "transformers + peft f32", "tokens_per_second": round(rate, 1), "steps": o.steps}))
