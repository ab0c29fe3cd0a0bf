"""The column `words` of item_feature in a ranker: which items are near each other by the words that they share.

    python jobs/loaders/words.py .curec/warehouse i01     # what is near item i01, and by which words

    from words import Words, newest

    words = Words(newest(".curec/warehouse"), fitted=trained)   # fitted: the items that training has met
    words.near("i01", 20)                                       # [(other, cosine)], the nearest first
    words.scores(["i07", "i03"])                                # {item: score} for a history, its latest item first

Words weigh by how few items have them, ln((1 + n) / (1 + n_w)), and an item's weights have length 1 (TF-IDF); nearness is the cosine.
What a word weighs is learned from the items that training has met, and stands until the ranker is trained anew; items that come
later are read with it. Add `a * score` to the ranker's own scores and let held-out events choose a.

curec's evaluation reads the column so and in one more way, which is the one that gained where it was measured (Musical Instruments):
the leading 64 directions of these rows (latent semantic analysis, such as scikit-learn's TruncatedSVD), fitted on the items of
training, each divided by the root of its mean square, stand beside the whitened `embedding` as inputs of W (item_vectors.py).

Needs pyarrow. Copy it and change it: it is an example, and short.
"""

import glob
import math
import os
import sys
from collections import Counter, defaultdict

import pyarrow.parquet as pq


def newest(warehouse, as_of=None):
    """{item: its words} by the newest row of each item, of those true at `as_of` (an aware datetime; None: of all)."""
    rows = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(warehouse), "item_feature", "dt=*", "*.parquet"))):
        table = pq.ParquetFile(path).read(columns=["item_id", "event_timestamp", "words"])
        for row in table.to_pylist():
            moment = row["event_timestamp"]
            if (as_of is None or moment <= as_of) and (row["item_id"] not in rows or rows[row["item_id"]][0] <= moment):
                rows[row["item_id"]] = (moment, row["words"] or [])
    return {item: words for item, (_, words) in rows.items()}


class Words:
    """Weights of words and who has which."""

    def __init__(self, words, fitted=None):
        """`words` is {item: list of words}; `fitted` names the items that weights are learned from (None: all)."""
        known = [words[item] for item in (words if fitted is None else fitted) if words.get(item)]
        counts = Counter(word for said in known for word in set(said))
        self.weights = {word: math.log((1 + len(known)) / (1 + n)) for word, n in counts.items()}
        self.rows, self.holders = {}, defaultdict(list)
        for item in sorted(words):
            row = {word: self.weights[word] for word in sorted(set(words[item])) if self.weights.get(word, 0.0) > 0.0}
            length = math.sqrt(sum(weight * weight for weight in row.values()))
            self.rows[item] = {word: weight / length for word, weight in row.items()}
            for word, weight in self.rows[item].items():
                self.holders[word].append((item, weight))

    def near(self, item, n=20):
        """The `n` items nearest to one, as (item, cosine), the nearest first; none that shares no word."""
        found = Counter()
        for word, weight in self.rows.get(item, {}).items():
            for other, of_other in self.holders[word]:
                found[other] += weight * of_other
        del found[item]
        return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:n]

    def scores(self, history, n=200):
        """How near items are to a history, whose latest item stands first: the k-th item back counts 1 / (k + 1)."""
        found, met = Counter(), set()
        for k, item in enumerate(history):
            if item not in met:
                met.add(item)
                for other, near in self.near(item, n):
                    found[other] += near / (k + 1)
        return dict(found)

    def shared(self, a, b):
        """The words that join two items, those that say most first."""
        one, other = self.rows.get(a, {}), self.rows.get(b, {})
        return sorted((word for word in one if word in other), key=lambda word: (-one[word] * other[word], word))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    told = Words(newest(sys.argv[1]))
    if sys.argv[2] not in told.rows:
        sys.exit(f"no row of item_feature is about {sys.argv[2]!r}")
    for other, near in told.near(sys.argv[2], 10):
        print(f"{near:.3f}  {other}  {', '.join(told.shared(sys.argv[2], other)[:6])}")
