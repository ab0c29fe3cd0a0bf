"""Trains a small next-item model from what `curec export` wrote, with and without the texts' vectors.

    python3 train.py out/training

Knows three ways to order items: by how often training has seen them, by a vector that each item learns for itself (ids), and by
one that stands on its text (ids and texts). Trains on events before SPLIT, judges by those after it. Needs pyarrow and PyTorch.
"""

import datetime
import sys
from collections import defaultdict
from pathlib import Path

try:
    import torch
    from torch.utils.data import DataLoader
except ImportError:
    sys.exit("train.py needs PyTorch: pip install torch")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs/loaders"))
from item_vectors import ItemVectors, NextItem, whiten  # noqa: E402
from ranker_loader import RankerDataset, vocabulary  # noqa: E402

SPLIT = int(datetime.datetime(2026, 2, 10, tzinfo=datetime.timezone.utc).timestamp() * 1_000_000)
COLUMNS = ["user_id", "item_id", "event_timestamp", "item_event_timestamp", "item_embedding", "item_missing"]
LENGTH, WIDTH, AXES, FIRST = 10, 32, 64, 10


def read(folder):
    """(text vectors by row, cases before SPLIT, cases after it). A case is (history, newest first; next item)."""
    known = {column: vocabulary(folder, column) for column in ("user_id", "item_id")}
    x, taken, cases = None, defaultdict(list), ([], [])
    # Without shuffling, rows come in the order of time.
    for batch in DataLoader(RankerDataset(folder, columns=COLUMNS, vocabularies=known), batch_size=None):
        if x is None:
            x = torch.zeros(len(known["item_id"]) + 1, batch["item_embedding"].shape[1])
        # What was published before SPLIT; a newer vector replaces an older one.
        is_known = ~batch["item_missing"] & (batch["item_event_timestamp"] <= SPLIT)
        x[batch["item_id"][is_known]] = batch["item_embedding"][is_known]
        for user, item, at in zip(*(batch[name].tolist() for name in COLUMNS[:3])):
            if taken[user]:
                history = taken[user][-LENGTH:][::-1]
                cases[at >= SPLIT].append((history + [0] * (LENGTH - len(history)), item))
            taken[user].append(item)
    return x, *(tuple(torch.tensor(part) for part in zip(*some)) for some in cases)


def train(items, histories, targets, epochs=20, batch=512):
    """A next-item model over these item vectors."""
    model = NextItem(items, WIDTH, LENGTH)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-5)
    for _ in range(epochs):
        for rows in torch.randperm(len(targets)).split(batch):
            optimiser.zero_grad()
            model.loss(histories[rows], targets[rows]).backward()
            optimiser.step()
    return model.eval()


def hits(scores, histories, targets):
    """Whether each next item is among the first; what the user has had already is no candidate, nor is row 0."""
    scores = scores.clone().scatter_(1, histories, float("-inf"))
    scores[:, 0] = float("-inf")
    best = scores.topk(FIRST, dim=1)
    # A place that only an item without a score could take is no hit.
    return ((best.indices == targets.unsqueeze(1)) & best.values.isfinite()).any(dim=1)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.manual_seed(0)
    x, (histories, targets), (later, wanted) = read(sys.argv[1])
    counts = torch.bincount(targets, minlength=len(x))
    white, _ = whiten(x, counts.nonzero().flatten(), AXES)
    ids = train(ItemVectors(len(x), WIDTH, torch.zeros(len(x), 1), counts), histories, targets)
    texts = train(ItemVectors(len(x), WIDTH, white, counts, seen_weight=5.0), histories, targets)
    found = {
        "popularity": hits(counts.float().repeat(len(wanted), 1), later, wanted),
        "ids": hits(ids.scores(later), later, wanted),
        "ids and texts": hits(texts.scores(later), later, wanted),
    }
    is_new = counts[wanted] == 0
    print(f"{len(x) - 1} items; {len(targets)} events to learn from, {len(wanted)} to judge by, {int(is_new.sum())} of new items")
    print(f"{f'recall@{FIRST}':<16}{'all':>8}{'new items':>12}")
    for name, hit in found.items():
        print(f"{name:<16}{hit.float().mean():>8.3f}{hit[is_new].float().mean():>12.3f}")


if __name__ == "__main__":
    main()
