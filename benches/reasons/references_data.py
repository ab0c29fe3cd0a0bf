#!/usr/bin/env python3
"""Pairs of a user and an item with a reason that somebody else wrote, as written examples that train and as pairs to answer.

    references_data.py xrec    --from xrec-amazon-books/explanations.parquet    --out FOLDER [--seed 0]
    references_data.py eredial --from eredial-explanations/explanations.parquet --out FOLDER [--seed 0]

Writes `train.jsonl`, written examples of the kind `pair` as `[align] written` reads them, and `test.jsonl`, the same without
`notes`, with `reason` as the reference whole and, of XRec, `model_explanation`. The texts are other people's and not ours to pass
on: FOLDER must lie outside the repository.

The evidence never looks at the reference:

* `subject`: the title; `content`: what the item is (XRec: the item's summary; E-Redial: plot and encyclopedia), in at most 60
  words, whole sentences, the first ones first;
* `liked`: what the user is after, in phrases of at most 40 words together, so that the prompt keeps it apart from the item (XRec:
  the clauses of the user's summary behind "enjoys", "appreciates"; E-Redial: what the seeker has said so far, and titles);
* `praise` (E-Redial): one sentence of a review, of at most 25 words, that praises and is the most telling.

The reference of XRec is its `explanation`. That of E-Redial is the whole turn that a person wrote, `explanation`, without its
`encourage` ("I highly recommend it"): `reason` alone says again what the seeker likes, and whatever is said of the film stands in
`description`.

Nobody who is asked about trains: XRec is split by user, E-Redial by dialogue, and pairs about an item that is asked about do not
train either. At most 1,000 lines train, those whose references are the most specific to their evidence: the sum of rarities of the
telling words that both hold, over the square root of how many the reference has. `notes` are phrases of the evidence that stand
in the reference, in its order. A reference of more than 60 words that trains keeps its first sentences.

Knows files; knows nothing of models or jobs.
"""

import argparse
import json
import random
import re
import sys
from pathlib import Path

from texts import WORD, rarities, stem, telling, words

CONTENT, WISHES, PRAISE, REASON = 60, 40, 25, 60
TRAINS, XREC_ASKED, EREDIAL_ASKED = 1000, 450, 130
NOTE, NOTES = 5, 5

WISH = re.compile(r"\b(?:enjoy(?:s|ed)?|appreciates?|prefers?|likes?|loves?|values?|drawn to|interested in|fan of)\b", re.I)
LEAD = re.compile(
    r"^(?:that|are|reading|(?:this|the) user \w+|they \w+|books? that|novels? that|to read|"
    r"and|or|also|of|to|a variety of genres,? (?:including|such as))\s+",
    re.I,
)
TASTE = re.compile(
    r"\b(?:like|love|loved|enjoy|prefer|looking for|interested in|in the mood for|want(?: to (?:see|watch))?|a (?:big )?fan of|"
    r"into)\b\s+(.+)",
    re.I,
)
AGAINST = re.compile(r"\b(?:not|never|haven't|havent|didn't|didnt|don't|dont|can't|cant|hate|hated|dislike)\b", re.I)
ENCOURAGES = re.compile(
    r"\b(?:recommend (?:it|you|them)|hope (?:that )?you|(?:try|enjoy|like|love|miss) (?:it|them)|worth (?:watching|a watch|seeing)|"
    r"why not|guarantee|check it out|go (?:and )?(?:watch|see)|good experience|if you haven't seen)\b",
    re.I,
)
PRAISES = set(
    "amazing awesome beautiful best better brilliant charming classic clever enjoy enjoyed enjoyable entertaining excellent "
    "fantastic favorite fun funny good gorgeous great hilarious incredible inspiring love loved masterpiece memorable moving "
    "must perfect powerful superb terrific touching wonderful worth".split()
)


def sentences(text):
    text = re.sub(r"(?<=[a-z)\]][.!?])(?=[A-Z\[])", " ", " ".join((text or "").split()))
    ends = r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|Jr|Sr|St|vs|No)\.)(?<!\b(?:Mrs|Vol|lit)\.)\s+(?=[\"'\[(A-Z0-9])"
    return [s.strip() for s in re.split(ends, text) if s.strip()]


def within(parts, most):
    """The first parts that have at most so many words together; one that has more alone is cut."""
    kept = []
    for part in parts:
        if len(" ".join([*kept, part]).split()) > most:
            return kept or [" ".join(part.split()[:most]).rstrip(",;:") + "..."]
        kept.append(part)
    return kept


def wishes(summary):
    """What a user's summary says the user is after, in phrases."""
    found = []
    for sentence in sentences(summary):
        match = WISH.search(sentence)
        if not match:
            continue
        parts = re.split(r"[,;]\s+(?:(?:and|or|as well as)\s+)?|\s+as well as\s+", sentence[match.end() :].strip(" .,:"))
        for phrase in parts:
            while (shorter := LEAD.sub("", phrase.strip())) != phrase:
                phrase = shorter
            if phrase and len(phrase.split()) <= 16 and phrase not in found:
                found.append(phrase)
    return within(found, WISHES)


def plain(text):
    """A turn without the marks of its titles and with spaces where sentences meet."""
    text = re.sub(r"\[([^\]]*)\]", r" \1 ", (text or "").replace("，", ", "))
    text = re.sub(r"\s+([.,!?;])", r"\1", " ".join(text.split()))
    return re.sub(r"(?<=[a-z)])([.,!?])(?=[A-Z])", r"\1 ", text)


def tastes(turns):
    """What a seeker has said to like: phrases, then titles."""
    phrases, titles = [], []
    for turn in (t.removeprefix("seeker: ") for t in turns if t.startswith("seeker: ")):
        for sentence in sentences(turn):
            if AGAINST.search(sentence):
                continue
            titles += [" ".join(t.split()) for t in re.findall(r"\[([^\]]*)\]", sentence)]
            match = TASTE.search(re.sub(r"\[[^\]]*\]", " ", sentence))
            phrase = " ".join(match.group(1).strip(" .,!?").split()[:12]) if match else ""
            if len(telling(phrase)) >= 1:
                phrases.append(phrase)
    return within(list(dict.fromkeys(phrases))[:3] + list(dict.fromkeys(titles))[-3:], WISHES)


def without_encouragement(turn, encourage):
    """A turn without what ends it and only encourages: the annotators' part, or a sentence that sounds like it."""
    parts = sentences(plain(turn))
    ending = plain(encourage).rstrip(" .!")
    while len(parts) > 1 and (ENCOURAGES.search(parts[-1]) or parts[-1].rstrip(" .!") in ending):
        parts.pop()
    text = " ".join(parts).rstrip(" ,;")
    return text if text.endswith((".", "!", "?", '"')) else text + "."


def runs(text, held):
    """Maximal runs of a text's words that are `held` and between which there is no mark, and the words around each."""
    found, run, before, end = [], [], None, 0
    for match in [*WORD.finditer(text), None]:
        gap = text[end : match.start()] if match else "."
        joined = gap.strip(" -") == ""
        if run and not (match and joined and stem(match.group()) in held):
            found.append((before, run, match if joined else None))
            run = []
        if match and stem(match.group()) in held:
            if not run:
                before = last if joined and end else None
            run.append(match)
        last, end = match, match.end() if match else end
    return found


def notes(line, rarity):
    """Phrases of two to five words of the evidence whose telling words stand in the reason, in the reason's order; where one such
    word stands alone, the word beside it comes along. The title says nothing here."""
    said = [stem(w) for w in words(line["reason"])]
    held, title = set(said), telling(line["subject"])
    found = {}
    for text in evidence_texts(line):
        for before, run, after in runs(text, held):
            tells = [bool(telling(m.group()) - title) for m in run]
            if not any(tells):
                continue
            first, last = tells.index(True), len(tells) - tells[::-1].index(True)
            while last - first > NOTE or not tells[last - 1]:
                last -= 1
            part = run[first:last]
            keys = frozenset(w for m in part for w in telling(m.group()) - title)
            if len(part) == 1:
                beside = [m for m in (run[first - 1] if first else before, run[last] if last < len(run) else after) if m]
                part = sorted(part + [m for m in beside[::-1] if telling(m.group())][:1], key=lambda m: m.start())
            if len(part) > 1:
                found.setdefault(keys, text[part[0].start() : part[-1].end()])
    kept, seen = [], set()
    for keys in sorted(found, key=lambda keys: (-sum(rarity.get(k, 0) for k in keys), sorted(keys))):
        if keys - seen and len(kept) < NOTES:
            kept.append(keys)
            seen |= keys
    return [found[keys] for keys in sorted(kept, key=lambda keys: min(said.index(k) for k in keys))]


def evidence_texts(line):
    return [*line["liked"], *line["content"], *line.get("praise", [])]


def cut(reference):
    return reference if len(reference.split()) <= REASON else " ".join(within(sentences(reference), REASON))


def xrec(rows, draw):
    """Lines that may train, and those that are asked about."""
    users = sorted({row["user_id"] for row in rows})
    draw.shuffle(users)
    by_user = {}
    for row in rows:
        by_user.setdefault(row["user_id"], []).append(row)
    asked, rest = [], []
    for user in users:
        (asked if len(asked) < XREC_ASKED else rest).extend(by_user[user])

    def line(row):
        return {
            "id": f"xrec-{row['user_id']}-{row['item_id']}",
            "kind": "pair",
            "subject": row["title"],
            "verdict": "like",
            "liked": wishes(row["user_summary"]),
            "content": within(sentences(row["item_summary"]), CONTENT),
            "reason": " ".join(row["explanation"].split()),
        }

    items = {row["item_id"] for row in asked}
    able = [line(row) for row in rest if row["item_id"] not in items]
    tests = [line(row) | {"model_explanation": " ".join(row["model_explanation"].split())} for row in asked]
    print(f"{len(rest) - len(able)} pairs of {len(rest)} do not train: their items are asked about")
    return able, tests


def eredial(rows, draw):
    dialogues = sorted({row["dialogue_id"] for row in rows})
    draw.shuffle(dialogues)
    lines = {}
    for row in rows:
        content = within([*sentences((row["plots"] or [""])[0]), *sentences((row["wiki"] or [""])[0])], CONTENT)
        if len(row["movies"]) != 1 or not content:
            continue
        opinions = sentences((row["reviews"] or [""])[0])
        lines.setdefault(row["dialogue_id"], []).append(
            {
                "id": f"eredial-{row['dialogue_id']}-{row['turn']}",
                "kind": "pair",
                "subject": row["movies"][0],
                "verdict": "like",
                "liked": tastes(row["context"]),
                "content": content,
                "praise": [s for s in opinions if 6 <= len(s.split()) <= PRAISE and PRAISES & set(words(s))],
                "reason": without_encouragement(row["explanation"], row["encourage"]),
            }
        )
    rarity = rarities(" ".join(line["content"] + line["praise"]) for of in lines.values() for line in of)
    for line in (line for of in lines.values() for line in of):

        def told(sentence):
            return sum(rarity[w] for w in telling(sentence)) / len(words(sentence)) ** 0.5

        line["praise"] = sorted(line["praise"], key=lambda s: (-told(s), s))[:1]
    asked, rest = [], []
    for dialogue in dialogues:
        (asked if len(asked) < EREDIAL_ASKED else rest).extend(lines.get(dialogue, []))
    films = {line["subject"] for line in asked}
    able = [line for line in rest if line["subject"] not in films]
    print(f"{len(rest) - len(able)} turns of {len(rest)} do not train: their films are asked about")
    return able, asked


def main():
    parser = argparse.ArgumentParser(description="Pairs of a user and an item with a reason that somebody else wrote.")
    parser.add_argument("data", choices=["xrec", "eredial"])
    parser.add_argument("--from", dest="source", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trains", type=int, default=TRAINS)
    args = parser.parse_args()
    out = Path(args.out).resolve()
    if Path(__file__).resolve().parents[2] in [out, *out.parents]:
        parser.error("--out must lie outside the repository: the texts are not to be passed on")
    import pyarrow.parquet as pq  # here: the rest is tried where there is no pyarrow

    rows = pq.read_table(args.source).to_pylist()
    able, asked = {"xrec": xrec, "eredial": eredial}[args.data](rows, random.Random(args.seed))

    rarity = rarities(" ".join(evidence_texts(line)) for line in able)

    def specificity(line):
        said = telling(line["reason"]) - telling(line["subject"])
        return sum(rarity.get(w, 0) for w in telling(" ".join(evidence_texts(line))) & said) / max(1, len(said)) ** 0.5

    for line in able:
        line["reason"] = cut(line["reason"])
        line["notes"] = "; ".join(notes(line, rarity))
    # A reason whose first sentence is too long alone, or that takes up nothing of the evidence, teaches nothing.
    able = [line for line in able if line["notes"] and not line["reason"].endswith("...")]
    able = sorted(sorted(able, key=lambda line: (-specificity(line), line["id"]))[: args.trains], key=lambda line: line["id"])
    asked.sort(key=lambda line: line["id"])
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in (("train", able), ("test", asked)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        shown = sum(len(" ".join([line["subject"], *evidence_texts(line)]).split()) for line in lines)
        said = sum(len(f"{line.get('notes', '')} {line['reason']}".split()) for line in lines)
        print(f"{name}: {len(lines)} lines, {shown / len(lines):.0f} words of evidence and {said / len(lines):.0f} of answer each")


if __name__ == "__main__":
    sys.exit(main())
