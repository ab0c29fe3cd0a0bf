#!/usr/bin/env python3
"""Which of two reasons a language model prefers: a proxy of what people would, no more.

    judge.py --bin CUREC --judge NAME=MODEL [--judge NAME=MODEL] --pool FOLDER/pool.parquet \\
             --one REASONS.parquet --other REASONS.parquet|first-sentence [--pairs 200] [--seed 0] [--json FILE]

Each judge (a GGUF file or a directory) reads what is known of the item and both texts, as A and B, and never where they come
from; every pair is asked in both orders. What counts is the sum over both orders of log p(the one) - log p(the other), so a
judge who always says "A" prefers nobody. `one` wins where that sum is above zero. The share of wins has a bootstrap interval
over pairs. Where the answer itself turns with the order the judge has no firm opinion: the share of firm pairs stands beside it,
as does how often two judges agree. Pairs of which a side has no text are left out and counted.

Knows files and the curec binary (`mean_logprob` of `curec sql`).
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curec_sql import over_texts
from texts import first_sentence

PROMPT = """Two short texts say why people pick the film {title}.
What is known of the film: {description}

A: {a}
B: {b}

Which text tells somebody better whether the film is for them, with something true and concrete? Answer with A or B."""


def log_probabilities(binary, model, prompts):
    """log p(A) and log p(B) after each prompt."""
    # Both in one call: the second answer shares the first one's prefill.
    columns = "mean_logprob(title, case when cast(item_id as bigint) % 2 = 0 then 'A' else 'B' end) as p"
    twice = [prompt for prompt in prompts for _ in "AB"]
    rows = over_texts(binary, model, twice, columns, "max_positions = 768\nslots = 8\n")
    return np.array([row["p"] for row in rows], dtype=np.float64).reshape(-1, 2)


def main():
    parser = argparse.ArgumentParser(description="Which of two reasons a language model prefers.")
    parser.add_argument("--bin", required=True)
    parser.add_argument("--judge", action="append", required=True, metavar="NAME=MODEL")
    parser.add_argument("--pool", required=True)
    parser.add_argument("--one", required=True)
    parser.add_argument("--other", required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()

    pool = {row["item_id"]: row for row in pq.read_table(args.pool).to_pylist()}

    def texts(path):
        if path == "first-sentence":
            return {i: first_sentence(row["description"]) for i, row in pool.items()}
        return {row["item_id"]: row["reason"] for row in pq.read_table(path).to_pylist()}

    one, other = texts(args.one), texts(args.other)
    both = sorted(i for i in one if i in other and i in pool)
    able = [i for i in both if one[i] and other[i] and one[i] != other[i]]
    pairs = sorted(random.Random(args.seed).sample(able, min(args.pairs, len(able))))
    prompts = []
    for i in pairs:
        known = {"title": pool[i]["title"], "description": pool[i]["description"][:600]}
        prompts.append(PROMPT.format(a=one[i], b=other[i], **known))
        prompts.append(PROMPT.format(a=other[i], b=one[i], **known))
    record, opinions = {"pairs": len(pairs), "left_out": len(both) - len(able), "judges": {}}, {}
    for judge in args.judge:
        name, model = judge.split("=", 1)
        found = log_probabilities(args.bin, model, prompts)
        forth = found[0::2, 0] - found[0::2, 1]
        back = found[1::2, 1] - found[1::2, 0]
        wins = (forth + back > 0).astype(float)
        draw = np.random.default_rng(args.seed)
        means = wins[draw.integers(0, len(wins), (2000, len(wins)))].mean(axis=1)
        opinions[name] = wins
        record["judges"][name] = {
            "prefers_one": float(wins.mean()),
            "interval": [float(np.quantile(means, q)) for q in (0.025, 0.975)],
            "firm": float(((forth > 0) == (back > 0)).mean()),
            "says_a": float(np.concatenate([forth > 0, back < 0]).mean()),
        }
    names = list(opinions)
    if len(names) == 2:
        a, b = opinions[names[0]], opinions[names[1]]
        by_chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
        agree = float((a == b).mean())
        record["agreement"] = {"agree": agree, "kappa": float((agree - by_chance) / max(1 - by_chance, 1e-9))}
    text = json.dumps(record, indent=1)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
