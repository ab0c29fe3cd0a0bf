"""Sentences a second of all-MiniLM-L6-v2 in transformers and ONNX Runtime; one JSON line a repetition and engine.

    python benches/peers/minilm.py MODEL_DIR [--onnx FILE] [--sentences 64] [--tokens 32] [--threads 2]

The ONNX file is exported on the first use (default in the temporary folder). Both engines get the same
random token ids, all of one length, and must agree in the pooled vectors.
"""

import argparse
import json
import os
import tempfile
import resource
import time

import numpy as np
import torch
from transformers import BertModel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--onnx", default=os.path.join(tempfile.gettempdir(), "minilm.onnx"))
parser.add_argument("--sentences", type=int, default=64)
parser.add_argument("--tokens", type=int, default=32)
parser.add_argument("--batches", type=int, default=8, help="batches a repetition")
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

torch.set_num_threads(options.threads)
torch.manual_seed(1)
ids = torch.randint(1000, 30000, (options.sentences, options.tokens))
mask = torch.ones_like(ids)
model = BertModel.from_pretrained(options.model, dtype=torch.float32).eval()


def pool(hidden):
    mean = hidden.mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def with_torch():
    with torch.no_grad():
        return pool(model(ids, attention_mask=mask).last_hidden_state.numpy())


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(engine, run):
    vectors = run()
    for repetition in range(options.repetitions):
        started, busy = time.monotonic(), cpu()
        for _ in range(options.batches):
            run()
        wall, busy = time.monotonic() - started, cpu() - busy
        line = {
            "engine": engine,
            "sentences": options.sentences,
            "tokens": options.tokens,
            "rep": repetition,
            "sentences_s": round(options.sentences * options.batches / wall, 1),
            "cpu_share": round(busy / wall / options.threads, 2),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "load": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(line), flush=True)
    return vectors


class Hidden(torch.nn.Module):
    """Only the last hidden state, for the export; eager attention exports in every opset."""

    def __init__(self):
        super().__init__()
        self.bert = BertModel.from_pretrained(options.model, dtype=torch.float32, attn_implementation="eager").eval()

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


ours = measure("transformers f32", with_torch)
if not os.path.exists(options.onnx):
    axes = {0: "sentences", 1: "tokens"}
    torch.onnx.export(
        Hidden(), (ids, mask), options.onnx, input_names=["input_ids", "attention_mask"], output_names=["hidden"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes}, dynamo=False, opset_version=17,
    )

import onnxruntime  # noqa: E402  (after torch, so that a missing onnxruntime still gives torch's numbers)

session_options = onnxruntime.SessionOptions()
session_options.intra_op_num_threads = options.threads
session = onnxruntime.InferenceSession(options.onnx, session_options, providers=["CPUExecutionProvider"])
feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
theirs = measure(f"onnxruntime {onnxruntime.__version__} f32", lambda: pool(session.run(None, feed)[0]))
assert np.abs(ours - theirs).max() < 1e-4, "the two engines disagree"
