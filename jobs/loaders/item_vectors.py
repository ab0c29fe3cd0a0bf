"""Text features in a ranker: item vectors that stand on the text and learn from the log what the text does not say.

    v_i = W x_i + m_i d_i          m_i = n_i / (n_i + seen_weight), and 0 where n_i = 0

x_i is the item's published vector, n_i how often training has seen the item, d_i (delta) a vector of its own.

    python jobs/loaders/item_vectors.py           # a made-up log: where does an item stand that nobody has taken yet?

    from item_vectors import ItemVectors, NextItem, apply_whitening, whiten

    x, fitted = whiten(vectors, counts.nonzero()[0], 128)    # vectors: float32 [items, 384], zeros where missing
    items = ItemVectors(len(x), 64, x, counts)               # counts: of training events alone
    model = NextItem(items, 64)
    ...                                                      # model.loss(histories, targets).backward(), as below
    items.refresh(apply_whitening(tonight, fitted))          # every night; new items as further rows at the end

Needs PyTorch. Copy it and change it: it is an example, and short. Why each piece is there:

* W x: all items share W, so it places an item that nobody has taken yet. It has no bias: no text, no vector.
* delta: two items with like texts need not have the same users. Where there are events, delta tells them apart.
* m: nothing trains the delta of an item without events; it would stay noise, so it is left out. With seen_weight an
  item of few events leans on its text.
* Delta dropout: with a delta for every item of the log, W need not learn anything. So in training the whole delta of an
  item is dropped at times, one draw per item and step. Nothing is scaled up for it: W x alone has to do.
* delta_bound keeps a delta short, so that an item stays near its text (Let-It-Go, arXiv 2507.19473).
* seen_loss: an item that nobody took is never a target. In the softmax it could only be a negative, W would learn to
  push such texts down, and no new item would be recommended. When serving, all items are scored.
* whiten: raw vectors of sentences share one big direction, and all items look alike. Fitted on items of training only.

What you keep: the order of items, as rows are known by it, and `fitted`, as W knows no other axes. Row 0 is for unknown
items and for padding, as `vocabulary` of ranker_loader.py has it: zeros, and a count of 0. x has one vector an item:
take those that were true when training ends, and judge by later events. After another encoder or projection, train anew.
"""

import torch
from torch.nn.functional import cross_entropy


class ItemVectors(torch.nn.Module):
    """The table of item vectors, [items, width]."""

    def __init__(self, catalogue, width, text_vectors, train_counts, delta_dropout=0.2, delta_bound=None, seen_weight=0.0):
        super().__init__()
        x, counts = torch.as_tensor(text_vectors), torch.as_tensor(train_counts, dtype=torch.float32)
        if len(x) != catalogue or counts.shape != (catalogue,):
            raise ValueError(f"{catalogue} items have {len(x)} text vectors and counts of shape {list(counts.shape)}")
        self.base = torch.nn.Linear(x.shape[1], width, bias=False)
        self.delta = torch.nn.Embedding(catalogue, width)
        for layer in (self.base, self.delta):
            torch.nn.init.normal_(layer.weight, std=0.02)
        self.delta_dropout, self.delta_bound = delta_dropout, delta_bound
        # The clamp is for 0 / 0: what was never seen has 0.
        self.register_buffer("trust", (counts / (counts + seen_weight).clamp_min(1e-9)).unsqueeze(1))
        self.register_buffer("seen", counts.nonzero().flatten())
        places = torch.full((catalogue,), -1)
        places[self.seen] = torch.arange(len(self.seen))
        self.register_buffer("places", places)
        # No part of a checkpoint: it is published, and another one every night.
        self.register_buffer("x", torch.empty(0, x.shape[1]), persistent=False)
        self.refresh(x)

    def refresh(self, new_vectors):
        """Tonight's text vectors, without training: old items in their rows, new ones behind them."""
        new = torch.as_tensor(new_vectors, dtype=torch.float32)
        if new.dim() != 2 or len(new) < len(self.trust) or new.shape[1] != self.base.in_features:
            wanted = f"{len(self.trust)} rows at least, {self.base.in_features} wide"
            raise ValueError(f"text vectors of shape {list(new.shape)}, not {wanted}")
        self.x = new.detach().clone().to(self.base.weight.device)

    def forward(self):
        table, delta, trust = self.base(self.x), self.delta.weight, self.trust
        if self.delta_bound is not None:
            length = delta.norm(dim=1, keepdim=True).clamp_min(1e-9)
            delta = delta * (self.delta_bound / length).clamp(max=1)
        if self.training:
            trust = trust * (torch.rand_like(trust) >= self.delta_dropout)
        # Items that came after training have no delta at all.
        return torch.cat([table[:len(delta)] + trust * delta, table[len(delta):]])

    def seen_loss(self, states, targets, table=None):
        """Cross-entropy over the items that training has seen. states: [rows, width]; targets: rows of the table.

        Give the table that the states were made with: each call of forward() draws anew.
        """
        table = self() if table is None else table
        return cross_entropy(states @ table[self.seen].T, self.places.index_select(0, targets))

    def known(self):
        """Which items have a vector: seen, or with a text. The others score 0, which may be much: leave them out."""
        known = self.x.any(dim=1)
        known[self.seen] = True
        return known


def whiten(vectors, rows_fit, width):
    """(white vectors, fitted): PCA whitening, fitted on `rows_fit` only. Rows of zeros are missing and stay zeros."""
    fit = torch.as_tensor(vectors)[torch.as_tensor(rows_fit)].double()
    fit = fit[fit.any(dim=1)]
    mean = fit.mean(dim=0)
    spread, axes = torch.linalg.eigh((fit - mean).T @ (fit - mean) / len(fit))
    spread, axes = spread[-width:].flip(0), axes[:, -width:].flip(1)
    # A direction in which the fitted rows do not differ would be scaled up without end: it becomes 0.
    scale = torch.where(spread > 1e-6 * spread[0], spread.clamp_min(1e-30).rsqrt(), 0.0)
    fitted = (mean.float(), (axes * scale).float())
    return apply_whitening(vectors, fitted), fitted


def apply_whitening(vectors, fitted):
    """Other vectors on the axes that `whiten` has fitted."""
    (mean, axes), vectors = fitted, torch.as_tensor(vectors, dtype=torch.float32)
    return ((vectors - mean) @ axes) * vectors.any(dim=1, keepdim=True)


class NextItem(torch.nn.Module):
    """A small ranker over these vectors: state = C sum_k a_k v(item k back) + c, score of an item = state . v."""

    def __init__(self, items, width, length=10):
        super().__init__()
        self.items = items
        self.a = torch.nn.Parameter(0.8 ** torch.arange(length))
        self.mix = torch.nn.Linear(width, width)
        torch.nn.init.eye_(self.mix.weight)
        torch.nn.init.zeros_(self.mix.bias)

    def states(self, table, histories):
        """histories: [rows, length], the newest item first, 0 where there is none."""
        return self.mix((table[histories] * self.a.unsqueeze(1)).sum(dim=1))

    def loss(self, histories, targets):
        table = self.items()
        return self.items.seen_loss(self.states(table, histories), targets, table)

    @torch.no_grad()
    def scores(self, histories):
        """[rows, items]: all items, seen or not. Call eval() first."""
        table = self.items()
        return (self.states(table, histories) @ table.T).masked_fill(~self.items.known(), float("-inf"))


def made_up_log(tastes=8, each=12, unseen=3, users=400, length=6):
    """(texts, taste of each row, histories, targets). A user has one taste; nobody takes the last `unseen` items of it."""
    taste = torch.cat([torch.tensor([-1]), torch.arange(tastes).repeat_interleave(each)])
    texts = torch.randn(tastes, 32)[taste] + 0.5 * torch.randn(len(taste), 32) + 5 * torch.randn(32)
    texts[0] = 0
    taken = torch.randint(each - unseen, (users, length + 1))
    rows = 1 + torch.randint(tastes, (users, 1)) * each + taken
    return texts, taste, rows[:, 1:], rows[:, 0]


if __name__ == "__main__":
    torch.manual_seed(0)
    texts, taste, histories, targets = made_up_log()
    counts = torch.bincount(torch.cat([histories.flatten(), targets]), minlength=len(texts))
    white, _ = whiten(texts, counts.nonzero().flatten(), 16)
    model = NextItem(ItemVectors(len(texts), 16, white, counts), 16, length=histories.shape[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        optimiser.zero_grad()
        model.loss(histories, targets).backward()
        optimiser.step()
    places = (-model.eval().scores(histories)).argsort(dim=1).argsort(dim=1) + 1.0
    fits = (counts == 0) & (taste == taste[targets].unsqueeze(1))
    place, of = places[fits].mean(), len(texts) - 1
    print(f"unseen items of a user's taste: place {place:.0f} of {of}, by chance {of / 2:.0f}")
