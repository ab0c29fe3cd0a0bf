#!/usr/bin/env python3
"""Reasons of a model for pairs of references_data.py: the answers of `generate` in `curec sql`, of several the most specific.

    answer.py TEST.jsonl --bin CUREC --model MODEL --adapter FOLDER --out ANSWERS.parquet [--samples 4] [--temperature 0.8]
    answer.py TEST.jsonl --bin CUREC --model MODEL --out ANSWERS.parquet

With an adapter the template aligned-pair asks, without one the built-in `pair`, each sampled as in a job that uses it, but longer; what
curec shows of the evidence is shortened as in a night. The first answer is greedy, further ones are sampled. Of those that end
well (the format whole, a mark at the end, no fifth of the three-word sequences twice, six words or more) the most specific is
taken: the sum of rarities of its telling words that its own evidence holds, over the square root of its number of words. Where none
ends well, there is no reason. References play no part: `reason` and `model_explanation` are never read.

Writes `id`, `reason`, `specificity` and `ended`, how many answers ended well. Knows files and the curec binary.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from texts import rarities, telling, words

FIELD, ITEM = "\u241f", "\u241e"
LISTS = ["liked", "content", "praise", "fault", "keywords"]
ALIGNED = re.compile(r"<think>[^<]*</think><reason>([^<]+)</reason>(?:<verdict>(?:yes|no)</verdict>)?")
MOST_REPEATED, FEWEST_WORDS = 0.2, 6


def packed(line):
    """A line's subject and lists as one text, for `over_texts`."""
    clean = {name: [t.replace(FIELD, " ").replace(ITEM, " ") for t in line.get(name, [])] for name in LISTS}
    return FIELD.join([line["subject"], *(ITEM.join(clean[name]) for name in LISTS)])


def columns():
    """SQL that takes a packed line apart, and asks."""
    nothing = "cast(make_array() as varchar[])"

    def part(name):
        text = f"split_part(title, '{FIELD}', {LISTS.index(name) + 2})"
        return f"case when {text} = '' then {nothing} else string_to_array({text}, '{ITEM}') end"

    # The job's template for items is the one for pairs: a job asks about pairs only where it names some.
    fit = (
        f"fit_evidence('item', split_part(title, '{FIELD}', 1), 'like', {part('liked')}, {nothing}, {nothing}, {nothing}, "
        f"{part('content')}, {part('praise')}, {part('fault')}, {part('keywords')})"
    )
    return f"generate({fit}['prompt_text'], {fit}['answer_stem']) as text, {fit}['answer_stem'] as stem"


def settings(args, sample):
    """The rest of the job behind the models of `[model]`."""
    aligned = args.adapter is not None
    prompt = args.prompt or ("aligned-pair" if aligned else "pair")
    return (
        (f'adapter = "{args.adapter}"\nallow_later_training = true\n' if aligned else "")
        + f'max_positions = 448\nslots = 8\n[prompt]\nitem = "{prompt}"\n[sampling]\n'
        + f"max_new_tokens = {args.tokens}\nrepetition_penalty = {1.0 if aligned else 1.1}\n"
        + f"max_copied_words = {args.copied if aligned else 0}\n"
        + (f"temperature = {args.temperature}\ntop_p = 0.95\nseed = {args.seed + sample}\n" if sample else "")
    )


def reason_of(stem, text):
    """The reason of an answer; none where the format is broken, as src/generate/format.rs has it."""
    whole = f"{stem} {text}" if stem and not stem.startswith("<") else f"{stem}{text}"
    if not stem.startswith("<think>"):
        return " ".join(whole.split())
    match = ALIGNED.fullmatch(whole.strip())
    return match.group(1).strip() if match and match.group(1).strip() else None


def ends_well(reason):
    said = words(reason)
    threes = list(zip(said, said[1:], said[2:]))
    repeated = 1 - len(set(threes)) / max(1, len(threes))
    return len(said) >= FEWEST_WORDS and reason.rstrip("\"'”’)").endswith((".", "!", "?")) and repeated <= MOST_REPEATED


def chosen(line, reasons, rarity):
    """The most specific of the reasons that end well, its specificity, and how many do; the first one of equal ones."""
    shown = telling(" ".join([line["subject"], *(text for name in LISTS for text in line.get(name, []))]))

    def specificity(reason):
        return sum(rarity.get(w, 0) for w in telling(reason) & shown) / len(words(reason)) ** 0.5

    able = [reason for reason in reasons if reason and ends_well(reason)]
    best = max(able, key=specificity, default=None)
    return best, specificity(best) if best else None, len(able)


def main():
    parser = argparse.ArgumentParser(description="Reasons of a model for pairs, of several the most specific.")
    parser.add_argument("pairs")
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--prompt", help="a template in the place of aligned-pair or pair")
    parser.add_argument("--out", required=True)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--tokens", type=int, default=144)
    parser.add_argument("--copied", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, help="only so many pairs, to try")
    args = parser.parse_args()

    # Here: the choice is tried where there is no pyarrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    from curec_sql import over_texts

    if args.adapter:
        args.adapter = Path(args.adapter).resolve()
    lines = [json.loads(line) for line in Path(args.pairs).read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = lines[: args.first]
    rarity = rarities(" ".join([line["subject"], *(t for name in LISTS for t in line.get(name, []))]) for line in lines)
    reasons, begun = [[] for _ in lines], time.monotonic()
    for sample in range(args.samples):
        rows = over_texts(args.bin, args.model, [packed(line) for line in lines], columns(), settings(args, sample))
        for of, row in zip(reasons, rows):
            of.append(reason_of(row["stem"] or "", row["text"]) if row["text"] else None)
    found = []
    for line, of in zip(lines, reasons):
        reason, specificity, ended = chosen(line, of, rarity)
        found.append({"id": line["id"], "reason": reason, "specificity": specificity, "ended": ended})
    schema = pa.schema([("id", pa.string()), ("reason", pa.string()), ("specificity", pa.float64()), ("ended", pa.int32())])
    pq.write_table(pa.Table.from_pylist(found, schema=schema), args.out)
    told = [row for row in found if row["reason"]]
    mean = sum(row["specificity"] for row in told) / max(1, len(told))
    answers = len(lines) * args.samples
    print(
        f"{len(told)} of {len(found)} pairs have a reason, {sum(row['ended'] for row in found)} of {answers} answers ended well; "
        f"specificity {mean:.2f}, {time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
