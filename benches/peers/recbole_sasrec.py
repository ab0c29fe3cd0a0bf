"""RecBole's SASRec under our global temporal split, ranked over the whole catalogue; one JSON line a seed.

    python benches/peers/recbole_sasrec.py INTERACTIONS.parquet [--seeds 5] [--epochs 200] [--patience 10] [--threads 2]

INTERACTIONS has user_id, item_id and timestamp (or event_timestamp). Wants an environment of its own:
`pip install torch recbole pandas pyarrow scipy "numpy<3"`, RecBole 1.2.1.

The model, its loss and its data augmentation (every prefix of a user's training events is a training sequence) are
RecBole's; prefixes go in as its dataloader would cut them, the last 50 items, padding behind. Adam 1e-3, batches of 2,048,
dropout 0.5, as RecBole's SASRec.yaml. The loop is written out, because RecBole cuts per user and its trainer cannot be given
a cut in time: the same number of epochs, patience and validation measure as ours. Cases, masks and ties are ours too
(src/recommend/split.rs, metrics.rs): every held-out event, given the user's events strictly before it.

Fields: `ndcg10` (seen items left out) and `ndcg10_seen_kept` on the test cases, `valid_ndcg10` of the best epoch,
`sequences_s` (prefixes of up to 50 items a second; one target each), `epoch_s`, `load`.
"""

import argparse
import json
import os
import time

import numpy as np
import pandas as pd
import torch
from recbole.model.sequential_recommender.sasrec import SASRec

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("interactions")
parser.add_argument("--seeds", type=int, default=5)
parser.add_argument("--first-seed", type=int, default=0)
parser.add_argument("--epochs", type=int, default=200)
parser.add_argument("--patience", type=int, default=10)
parser.add_argument("--batch", type=int, default=2048)
parser.add_argument("--dropout", type=float, default=0.5)
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--inner", type=int, default=256)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--heads", type=int, default=2)
parser.add_argument("--length", type=int, default=50)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, help="stop an epoch after so many steps: for timing only")
options = parser.parse_args()
torch.set_num_threads(options.threads)


def cut(moments, quantile):
    return moments[int(np.floor(len(moments) * quantile))]


log = pd.read_parquet(options.interactions)
log = log.rename(columns={"event_timestamp": "timestamp"})[["user_id", "item_id", "timestamp"]]
log["user"] = log.user_id.rank(method="dense").astype(int) - 1
log["item"] = log.item_id.rank(method="dense").astype(int)  # 0 is RecBole's padding
log["moment"] = log.timestamp.astype("int64")
log = log.sort_values(["moment", "user", "item"], kind="stable")
test_from = cut(log.moment.values, 0.9)
valid_from = cut(log.moment.values[log.moment.values < test_from], 0.9)
items = int(log.item.max())
lines = {user: (g.item.values, g.moment.values) for user, g in log.groupby("user")}

train = [(user, i) for user, (_, moments) in lines.items() for i in range(1, int((moments < valid_from).sum()))]


def cases(start, end):
    found = []
    for user, (_, moments) in sorted(lines.items()):
        for i in np.flatnonzero((moments >= start) & (moments < end)):
            known = int(np.searchsorted(moments, moments[i], side="left"))
            if known:
                found.append((user, known, int(i)))
    return found


valid, test = cases(valid_from, test_from), cases(test_from, np.iinfo(np.int64).max)


def rows(pairs):
    sequences = np.zeros((len(pairs), options.length), dtype=np.int64)
    lengths = np.empty(len(pairs), dtype=np.int64)
    for row, (user, known) in enumerate(pairs):
        history = lines[user][0][max(0, known - options.length) : known]
        sequences[row, : len(history)] = history
        lengths[row] = len(history)
    return torch.from_numpy(sequences), torch.from_numpy(lengths)


train_rows = rows(train)
train_targets = torch.tensor([lines[user][0][i] for user, i in train])


class Config(dict):
    def __getitem__(self, key):
        return self.get(key)


class Dataset:
    def num(self, field):
        return items + 1


config = Config(
    USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", LIST_SUFFIX="_list", ITEM_LIST_LENGTH_FIELD="item_length",
    NEG_PREFIX="neg_", MAX_ITEM_LIST_LENGTH=options.length, device="cpu", n_layers=options.layers,
    n_heads=options.heads, hidden_size=options.hidden, inner_size=options.inner, hidden_dropout_prob=options.dropout,
    attn_dropout_prob=options.dropout, hidden_act="gelu", layer_norm_eps=1e-12, initializer_range=0.02, loss_type="CE",
)


def ndcg(model, cases, mask_seen):
    model.eval()
    total = 0.0
    with torch.no_grad():
        for at in range(0, len(cases), 512):
            part = cases[at : at + 512]
            sequences, lengths = rows([(user, known) for user, known, _ in part])
            scores = model.full_sort_predict(
                {"item_id_list": sequences, "item_length": lengths}
            )[:, 1:].numpy().copy()
            for row, (user, known, i) in zip(scores, part):
                target = lines[user][0][i] - 1
                own = row[target]
                if mask_seen:
                    row[lines[user][0][:known] - 1] = -np.inf
                    row[target] = own
                rank = int((row >= own).sum())
                total += 1 / np.log2(rank + 1) if rank <= 10 else 0.0
    return total / len(cases)


print(json.dumps({"train": len(train), "valid_cases": len(valid), "test_cases": len(test), "items": items}), flush=True)
for seed in range(options.first_seed, options.first_seed + options.seeds):
    torch.manual_seed(seed)
    model = SASRec(config, Dataset())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, best_epoch, best_state, seen, seconds = -1.0, 0, None, 0, 0.0
    for epoch in range(1, options.epochs + 1):
        model.train()
        started = time.monotonic()
        for part in torch.randperm(len(train)).split(options.batch)[: options.steps]:
            optimizer.zero_grad()
            loss = model.calculate_loss({
                "item_id_list": train_rows[0][part], "item_length": train_rows[1][part], "item_id": train_targets[part],
            })
            loss.backward()
            optimizer.step()
            seen += len(part)
        seconds += time.monotonic() - started
        score = ndcg(model, valid, True)
        if score > best:
            best, best_epoch = score, epoch
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        if epoch - best_epoch >= options.patience:
            break
    model.load_state_dict(best_state)
    print(json.dumps({
        "peer": "recbole", "seed": seed, "ndcg10": ndcg(model, test, True), "ndcg10_seen_kept": ndcg(model, test, False),
        "valid_ndcg10": best, "best_epoch": best_epoch, "epochs": epoch, "sequences_s": round(seen / seconds, 1),
        "epoch_s": round(seconds / epoch, 2), "load": os.getloadavg()[0],
    }), flush=True)
