#!/usr/bin/env python3
"""What a night's item reasons are worth as texts: how well a reason finds its own item, and what stands beside that number.

    measure.py prepare --items FILE --out FOLDER [--asked 300] [--pool 1000] [--seed 0] [--without FILE]
    measure.py report  --bin CUREC --encoder FOLDER --pool FOLDER/pool.parquet NAME=REASONS.parquet ...

`prepare` draws the pool (items with a description) and, of it, the items that are asked, with a seed; titles that stand in
`--without` (a CSV with a column `title`, such as jobs/quickstart/synopses.csv) are left out, so that nothing is measured on what
was trained. It writes `pool.parquet` and `asked.parquet`, the input `item` of the nights that are compared.

`report` reads for each arm a Parquet file with `item_id`, `reason`, `accepted` and `refusal` (`curec sql`, see README.md) and
prints a table, and JSON with --json:

* MRR and hit@10: the reason and all descriptions of the pool, titles and people masked, as vectors of the encoder (`embed` of
  `curec sql`); where the item's own description stands in the order of their cosines. The interval is a bootstrap over items.
* the same for baselines made of the pool alone: genres, and the description's first sentence;
* copied: share of the reasons with a run of more than eight words of their description, titles left out;
* format, accepted, words, distinct-2 at equal length (each reason cut to 15 words), shared (reasons that two items have).

Knows files and the curec binary; knows nothing of jobs.
"""

import argparse
import csv
import json
import random
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curec_sql import over_texts
from texts import copies, distinct2, first_sentence, masked, words

def items_of(path):
    table = pq.read_table(path).to_pylist()
    found = {}
    for row in table:
        people = [*(row.get("directors") or []), *(row.get("actors") or []), *(row.get("people") or [])]
        found[row["item_id"]] = {
            "item_id": row["item_id"],
            "title": row["title"],
            "categories": row.get("categories") or [],
            "description": row.get("description") or "",
            "people": [p for p in people if p],
        }
    return found


def write_items(path, items):
    schema = pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            ("title", pa.string()),
            ("categories", pa.list_(pa.string())),
            ("description", pa.string()),
            ("people", pa.list_(pa.string())),
        ]
    )
    pq.write_table(pa.Table.from_pylist(items, schema=schema), path)


def prepare(args):
    items = items_of(args.items)
    known = set()
    if args.without:
        with open(args.without, encoding="utf-8", newline="") as file:
            known = {row["title"] for row in csv.DictReader(file)}
    able = sorted(i for i, item in items.items() if len(words(item["description"])) >= 12 and item["title"] not in known)
    draw = random.Random(args.seed)
    pool = draw.sample(able, min(args.pool, len(able)))
    asked = sorted(pool[: args.asked])
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_items(out / "pool.parquet", [items[i] for i in sorted(pool)])
    write_items(out / "asked.parquet", [items[i] for i in asked])
    print(f"{len(pool)} items in the pool, {len(asked)} of them asked, {len(known)} titles known and left out")


def inputs(args):
    """What the nights read: the asked items with and without descriptions, and a log of one event."""
    out = Path(args.out)
    asked = pq.read_table(out / "asked.parquet").drop_columns(["people"])
    pq.write_table(asked, out / "item.parquet")
    at = pa.array([datetime(1998, 4, 22, 12, tzinfo=timezone.utc)], pa.timestamp("us", tz="UTC"))
    event = {"user_id": ["1"], "item_id": asked["item_id"].to_pylist()[:1], "event": ["rating"], "rating": [5.0]}
    pq.write_table(pa.table(event | {"event_timestamp": at}), out / "interaction.parquet")
    # Last: run.sh looks for it.
    pq.write_table(asked.drop_columns(["description"]), out / "titles.parquet")


def vectors(binary, encoder, texts):
    """Unit vectors of texts, by `embed` of curec sql."""
    matrix = np.array([row["v"] for row in over_texts(binary, encoder, texts, "embed(title) as v")], dtype=np.float64)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def ranks(texts, order, pool_vectors, binary, encoder):
    """The rank of each text's own description; `order` maps an item to its row in the pool."""
    own = vectors(binary, encoder, [text for _, text in texts])
    scores = own @ pool_vectors.T
    found = []
    for row, (item, text) in enumerate(texts):
        mine = scores[row, order[item]]
        # A text that says nothing finds nothing: it stands behind all others.
        found.append(len(order) if not text else int((scores[row] > mine).sum()) + 1)
    return np.array(found)


def interval(values, seed):
    draw = np.random.default_rng(seed)
    means = values[draw.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    return [float(np.quantile(means, q)) for q in (0.025, 0.975)]


def report(args):
    pool = items_of(args.pool)
    order = {item: n for n, item in enumerate(sorted(pool))}
    pool_vectors = vectors(args.bin, args.encoder, [masked(pool[i]["description"], pool[i]) for i in sorted(pool)])
    arms = {}
    for arm in args.arms:
        name, path = arm.split("=", 1)
        arms[name] = {row["item_id"]: row for row in pq.read_table(path).to_pylist() if row["item_id"] in pool}
    asked = sorted(set.intersection(*(set(rows) for rows in arms.values())))
    table = {}

    def found(name, texts):
        place = ranks([(i, masked(texts[i] or "", pool[i])) for i in asked], order, pool_vectors, args.bin, args.encoder)
        reciprocal = 1.0 / place
        table[name] = {
            "items": len(asked),
            "mrr": float(reciprocal.mean()),
            "mrr_interval": interval(reciprocal, args.seed),
            "hit10": float((place <= 10).mean()),
        }

    for name, rows in arms.items():
        said = {i: rows[i]["reason"] or "" for i in asked}
        found(name, said)
        there = [text for text in said.values() if text]
        lengths = [len(words(text)) for text in there]
        times = Counter(" ".join(words(text)) for text in there)
        table[name] |= {
            "format": len(there) / len(asked),
            "accepted": sum(bool(rows[i]["accepted"]) for i in asked) / len(asked),
            "refusals": dict(Counter(rows[i]["refusal"] for i in asked if rows[i]["refusal"])),
            "copied": sum(copies(said[i], pool[i]) for i in asked) / len(asked),
            "words": float(np.mean(lengths)) if lengths else 0.0,
            "distinct2": distinct2(there),
            "shared": sum(n for n in times.values() if n > 1),
        }
    found("genres", {i: ", ".join(pool[i]["categories"]) for i in asked})
    found("first sentence", {i: first_sentence(pool[i]["description"]) for i in asked})

    print(f"| arm | MRR among {len(pool)} | hit@10 | format | accepted | copied | words | distinct-2 | shared |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, m in table.items():
        low, high = m["mrr_interval"]
        rest = "| | | | | | |"
        if "format" in m:
            rest = (
                f"| {m['format']:.3f} | {m['accepted']:.3f} | {m['copied']:.3f} | {m['words']:.1f} "
                f"| {m['distinct2']:.3f} | {m['shared']} |"
            )
        print(f"| {name} | {m['mrr']:.3f} [{low:.3f}, {high:.3f}] | {m['hit10']:.3f} {rest}")
    if args.json:
        Path(args.json).write_text(json.dumps({"asked": len(asked), "pool": len(pool), "arms": table}, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description="What item reasons are worth as texts.")
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("prepare")
    first.add_argument("--items", required=True)
    first.add_argument("--out", required=True)
    first.add_argument("--asked", type=int, default=300)
    first.add_argument("--pool", type=int, default=1000)
    first.add_argument("--seed", type=int, default=0)
    first.add_argument("--without")
    first.set_defaults(run=prepare)
    nights = commands.add_parser("inputs")
    nights.add_argument("--out", required=True)
    nights.set_defaults(run=inputs)
    second = commands.add_parser("report")
    second.add_argument("--bin", required=True)
    second.add_argument("--encoder", required=True)
    second.add_argument("--pool", required=True)
    second.add_argument("--seed", type=int, default=0)
    second.add_argument("--json")
    second.add_argument("arms", nargs="+", metavar="NAME=FILE")
    second.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())
