#!/usr/bin/env python3
"""How near reasons for pairs come to what somebody else wrote for the same pairs, beside what any reference would give.

    text_scores.py --references TEST.jsonl [--train TRAIN.jsonl] [--seed 0] [--json FILE] \\
                   NAME=ANSWERS.parquet ... NAME=model_explanation NAME=content

A reference is `reason` of a line of references_data.py; an arm is a file with `id` and `reason`, or a key of the lines, such as
what XRec's own model wrote, or the sentences of the evidence. Every arm answers every pair: who has no reason has said nothing,
and that counts. With --train there is one arm more, that says the same of all pairs: of 80 reasons that train the one that comes
nearest to the others.

* BLEU-4 of the corpus and ROUGE-L as in texts.py: lower-case words, marks left out, one reference, no smoothing;
* shuffled: the same reasons against other pairs' references, the mean of five orders in which nobody keeps the own one. Whoever
  has learned how references sound gets that much whatever the pair is;
* margin: what is left. The intervals of BLEU-4 and its margin are bootstraps over pairs, the five orders held.

Knows files; knows nothing of models or jobs.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from texts import bleu4, bleu_counts, bleu_of, others, rouge_l, words

ORDERS = 5


def interval(values):
    values = sorted(values)
    return [values[int(0.025 * len(values))], values[int(0.975 * len(values))]]


def measured(said, told, seed=0, resamples=1000):
    """The measures of texts and their references, with controls and intervals."""
    draw = random.Random(seed)
    orders = [list(range(len(told))), *(others(len(told), draw) for _ in range(ORDERS))]
    counts = [[bleu_counts(text, told[other]) for text, other in zip(said, order)] for order in orders]
    rouge = [sum(rouge_l(text, told[other]) for text, other in zip(said, order)) / len(said) for order in orders]

    def bleus(places):
        own, *shuffled = (bleu_of([sum(column) for column in zip(*(of[n] for n in places))]) for of in counts)
        return own, sum(shuffled) / ORDERS

    own, shuffled = bleus(orders[0])
    again = [bleus(draw.choices(orders[0], k=len(told))) for _ in range(resamples)]
    return {
        "pairs": len(told),
        "without": sum(not text for text in said),
        "words": sum(len(words(text)) for text in said) / len(said),
        "bleu4": own,
        "bleu4_interval": interval(one for one, _ in again),
        "bleu4_shuffled": shuffled,
        "bleu4_margin": own - shuffled,
        "bleu4_margin_interval": interval(one - other for one, other in again),
        "rouge_l": rouge[0],
        "rouge_l_shuffled": sum(rouge[1:]) / ORDERS,
        "rouge_l_margin": rouge[0] - sum(rouge[1:]) / ORDERS,
    }


def texts_of(arm, lines):
    """What an arm says of each line."""
    if all(arm in line for line in lines):
        return [" ".join(line[arm]) if isinstance(line[arm], list) else line[arm] or "" for line in lines]
    import pyarrow.parquet as pq  # here: the measures are tried where there is no pyarrow

    found = {row["id"]: row["reason"] for row in pq.read_table(arm).to_pylist()}
    return [found[line["id"]] or "" for line in lines]


def commonest(reasons, draw):
    """Of some reasons the one that comes nearest to the others."""
    some = draw.sample(reasons, min(80, len(reasons)))
    return max(some, key=lambda one: bleu4([(one, other) for other in some if other != one]))


def main():
    parser = argparse.ArgumentParser(description="How near reasons for pairs come to what somebody else wrote.")
    parser.add_argument("--references", required=True)
    parser.add_argument("--train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--json")
    parser.add_argument("arms", nargs="+", metavar="NAME=FILE|KEY")
    args = parser.parse_args()
    text = Path(args.references).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    told, record = [line["reason"] for line in lines], {}
    arms = [(name, texts_of(source, lines)) for name, source in (arm.split("=", 1) for arm in args.arms)]
    if args.train:
        text = Path(args.train).read_text(encoding="utf-8")
        reasons = [json.loads(line)["reason"] for line in text.splitlines() if line.strip()]
        arms.append(("the same for all", [commonest(reasons, random.Random(args.seed))] * len(lines)))
    print("| arm | pairs | without | words | BLEU-4 | shuffled | margin | ROUGE-L | shuffled | margin |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, said in arms:
        m = record[name] = measured(said, told, args.seed, args.resamples)
        (low, high), (least, most) = m["bleu4_interval"], m["bleu4_margin_interval"]
        print(
            f"| {name} | {m['pairs']} | {m['without']} | {m['words']:.0f} | {m['bleu4']:.2f} [{low:.2f}, {high:.2f}] "
            f"| {m['bleu4_shuffled']:.2f} | {m['bleu4_margin']:.2f} [{least:.2f}, {most:.2f}] "
            f"| {m['rouge_l']:.3f} | {m['rouge_l_shuffled']:.3f} | {m['rouge_l_margin']:.3f} |"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
