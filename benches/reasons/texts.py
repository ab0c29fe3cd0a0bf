"""Texts of reasons and descriptions: words, masks, copies, variety.

Knows text only, and nothing beyond Python itself: tests/python/test_reasons.py reads it without any package.
"""

import math
import re
from collections import Counter

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*", re.UNICODE)
EQUAL_LENGTH = 15
# Words that say nothing of what they stand beside.
COMMON = frozenset(
    "about after all also although and any are because been before being book books both but can could did does each even "
    "every film films find for from get gets had has have her him his how into its itself just like likely likes many may "
    "might more most movie movies much must not novel novels one only other others our out over own read reader readers "
    "reading see she should since some story stories such than that the their them then there these they this those through "
    "too two under until user users very was watch were what when where which while who whose will with without would you "
    "your buy enjoy enjoys enjoyed".split()
)


def words(text):
    return [w.lower() for w in WORD.findall(text or "")]


def stem(word):
    """A word without what makes a plural or a possessive of it, as far as that is told without a list."""
    word = word.lower().replace("\u2019", "'").removesuffix("'s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def telling(text):
    """The stems of a text's words that say something."""
    return {stem(w) for w in words(text) if len(w) > 2 and w not in COMMON}


def rarities(texts):
    """Of every stem ln(texts / texts that hold it)."""
    held = [telling(text) for text in texts]
    counts = Counter(word for text in held for word in text)
    return {word: math.log(len(held) / count) for word, count in counts.items()}


def titles_of(title):
    """A title as it is written and spoken: without its year, with its article in front."""
    plain = re.sub(r"\s*\((?:\d{4}|[^()]*)\)", "", title or "").strip()
    moved = re.sub(r"^(.*), (The|A|An|Les|La|Le|Il|El|Das|Der|Die)$", r"\2 \1", plain)
    bare = re.sub(r"^(The|A|An) ", "", moved)
    return sorted({t for t in (title, plain, moved, bare) if t and len(t) > 2}, key=len, reverse=True)


def masked(text, item):
    """The text without the item's title and people: those would find it whatever else the text says."""
    for name in titles_of(item["title"]):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", text, flags=re.IGNORECASE)
    for person in item["people"]:
        for part in [person, *(p for p in person.split() if len(p) > 3)]:
            text = re.sub(rf"\b{re.escape(part)}\b", " ", text, flags=re.IGNORECASE)
    return " ".join(text.split())


def first_sentence(text):
    return re.split(r"(?<=[.!?])\s", (text or "").strip())[0]


def copies(reason, item, most=8):
    for name in titles_of(item["title"]):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " | ", reason, flags=re.IGNORECASE)
    said = words(reason.replace("|", " qqq "))
    told = words(item["description"])
    runs = {tuple(told[n : n + most + 1]) for n in range(len(told) - most)}
    return any(tuple(said[n : n + most + 1]) in runs for n in range(len(said) - most))


def distinct2(texts):
    pairs = Counter()
    for text in texts:
        said = words(text)[:EQUAL_LENGTH]
        pairs.update(zip(said, said[1:]))
    return len(pairs) / max(1, sum(pairs.values()))


def bleu_counts(said, told):
    """What BLEU-4 counts in one text and its reference: four times matches, four times n-grams, both lengths."""
    said, told = words(said), words(told)
    matches, totals = [], []
    for n in range(1, 5):
        ours = Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1))
        theirs = Counter(tuple(told[i : i + n]) for i in range(len(told) - n + 1))
        matches.append(sum(min(count, theirs[gram]) for gram, count in ours.items()))
        totals.append(sum(ours.values()))
    return (*matches, *totals, len(said), len(told))


def bleu_of(counts):
    """BLEU-4 in points of what was counted, summed over all texts."""
    matches, totals, (said_length, told_length) = counts[:4], counts[4:8], counts[8:]
    if not all(matches):
        return 0.0
    mean = sum(math.log(m / t) for m, t in zip(matches, totals)) / 4
    return 100 * math.exp(mean + min(0.0, 1 - told_length / said_length))


def bleu4(pairs):
    """Corpus BLEU-4 in points, one reference each, no smoothing (Papineni et al. 2002), over lower-case words."""
    return bleu_of([sum(column) for column in zip(*(bleu_counts(said, told) for said, told in pairs))] or [0] * 10)


def rouge_l(said, told):
    """F1 of the longest common subsequence of words, 0 to 1."""
    said, told = words(said), words(told)
    row = [0] * (len(told) + 1)
    for one in said:
        corner = 0
        for j, other in enumerate(told):
            above = row[j + 1]
            row[j + 1] = corner + 1 if one == other else max(above, row[j])
            corner = above
    return 2 * row[-1] / (len(said) + len(told)) if said and told else 0.0


def others(count, draw):
    """For each of so many places another one, no place its own: a shift by one after a shuffle."""
    order = draw.sample(range(count), count)
    found = [0] * count
    for n, place in enumerate(order):
        found[place] = order[(n + 1) % count]
    return found
