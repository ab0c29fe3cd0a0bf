#!/usr/bin/env python3
"""How near reasons come to what somebody wrote for the same item: BLEU-4 and ROUGE-L, each beside its control.

    references.py --references FILE.jsonl [--prefix film-] [--seed 0] [--json FILE] NAME=REASONS.parquet ...

A reference is a line with `id` (the prefix and an item_id) and `reason`, as in jobs/written. Most of BLEU is style: whoever writes
sentences of the same kind gets it whatever they say. So each figure has a control, the same reasons held against the references
of other items (20 shuffles, the mean), and what counts is the margin over it; its interval is a bootstrap over items.

Knows files; knows nothing of models or jobs.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import pyarrow.parquet as pq

from texts import bleu4, others, rouge_l

SHUFFLES = 20
RESAMPLES = 200


def measured(said, told, draw):
    """BLEU-4, ROUGE-L and both controls of texts and their references."""
    controls = []
    for _ in range(SHUFFLES):
        other = others(len(told), draw)
        shuffled = [(text, told[other[n]]) for n, text in enumerate(said)]
        controls.append((bleu4(shuffled), sum(rouge_l(a, b) for a, b in shuffled) / len(shuffled)))
    pairs = list(zip(said, told))
    return {
        "bleu4": bleu4(pairs),
        "bleu4_shuffled": sum(c[0] for c in controls) / SHUFFLES,
        "rouge_l": sum(rouge_l(a, b) for a, b in pairs) / len(pairs),
        "rouge_l_shuffled": sum(c[1] for c in controls) / SHUFFLES,
    }


def main():
    parser = argparse.ArgumentParser(description="How near reasons come to what somebody wrote for the same item.")
    parser.add_argument("--references", required=True)
    parser.add_argument("--prefix", default="film-")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    parser.add_argument("arms", nargs="+", metavar="NAME=FILE")
    args = parser.parse_args()
    lines = [json.loads(line) for line in Path(args.references).read_text(encoding="utf-8").splitlines() if line.strip()]
    told = {line["id"].removeprefix(args.prefix): line["reason"] for line in lines}
    record = {}
    print("| arm | items | BLEU-4 | shuffled | margin | ROUGE-L | shuffled | margin |")
    print("|---|---|---|---|---|---|---|---|")
    for arm in args.arms:
        name, path = arm.split("=", 1)
        rows = sorted(pq.read_table(path).to_pylist(), key=lambda row: row["item_id"])
        rows = [row for row in rows if row["item_id"] in told]
        said, wanted = [row["reason"] or "" for row in rows], [told[row["item_id"]] for row in rows]
        draw = random.Random(args.seed)
        found = measured(said, wanted, draw)
        margins = []
        for _ in range(RESAMPLES):
            chosen = [draw.randrange(len(rows)) for _ in rows]
            of, to = [said[n] for n in chosen], [wanted[n] for n in chosen]
            step = draw.randrange(1, len(rows))
            margins.append(bleu4(list(zip(of, to))) - bleu4(list(zip(of, to[step:] + to[:step]))))
        margins.sort()
        low, high = margins[int(0.025 * RESAMPLES)], margins[int(0.975 * RESAMPLES)]
        record[name] = found | {"items": len(rows), "bleu4_margin_interval": [low, high]}
        b, r = found["bleu4"] - found["bleu4_shuffled"], found["rouge_l"] - found["rouge_l_shuffled"]
        print(
            f"| {name} | {len(rows)} | {found['bleu4']:.2f} | {found['bleu4_shuffled']:.2f} | {b:.2f} [{low:.2f}, {high:.2f}] "
            f"| {found['rouge_l']:.3f} | {found['rouge_l_shuffled']:.3f} | {r:.3f} |"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
