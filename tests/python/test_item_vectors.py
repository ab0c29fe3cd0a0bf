"""jobs/loaders/item_vectors.py: what an item that training has never seen gets, and what it does not.

    python tests/python/test_item_vectors.py

Needs PyTorch.
"""

import contextlib
import importlib.util
import io
import runpy
import unittest
from pathlib import Path

try:
    import torch
except ImportError:
    torch = None

EXAMPLE = Path(__file__).resolve().parents[2] / "jobs/loaders/item_vectors.py"
# Row 0 is for padding; of the others 3 and 5 have no event.
COUNTS = [0, 4, 1, 0, 9, 0]
SEEN, UNSEEN = [1, 2, 4], [0, 3, 5]


def load():
    spec = importlib.util.spec_from_file_location("item_vectors", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Seeded(unittest.TestCase):
    """The same numbers every time, on one thread."""

    def setUp(self):
        threads = torch.get_num_threads()
        self.addCleanup(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        torch.manual_seed(7)
        self.example = load()


@unittest.skipUnless(torch, "PyTorch is not installed")
class Vectors(Seeded):
    def setUp(self):
        super().setUp()
        self.x = torch.randn(6, 8)
        self.x[0] = 0
        self.states, self.targets = torch.randn(5, 4), torch.tensor([1, 4, 2, 4, 1])

    def items(self, **options):
        return self.example.ItemVectors(6, 4, self.x, COUNTS, **options)

    def test_the_formula(self):
        items = self.items(seen_weight=3.0).eval()
        trust = torch.tensor([n / (n + 3) if n else 0.0 for n in COUNTS]).unsqueeze(1)
        wanted = self.x @ items.base.weight.T + trust * items.delta.weight
        torch.testing.assert_close(items(), wanted)
        # Without seen_weight delta counts whole or not at all, and 0 / 0 is 0.
        self.assertEqual(self.items().trust.flatten().tolist(), [0, 1, 1, 0, 1, 0])

    def test_first_values(self):
        items = self.example.ItemVectors(2000, 32, torch.zeros(2000, 500), [1] * 2000)
        self.assertIsNone(items.base.bias)
        for weight in (items.base.weight, items.delta.weight):
            self.assertAlmostEqual(weight.std().item(), 0.02, delta=0.001)
            self.assertAlmostEqual(weight.mean().item(), 0.0, delta=0.001)

    def test_items_never_seen_get_gradient_through_w_alone(self):
        items = self.items(delta_dropout=0.0)
        items()[UNSEEN].square().sum().backward()
        self.assertGreater(items.base.weight.grad.abs().sum().item(), 0)
        self.assertEqual(items.delta.weight.grad.abs().sum().item(), 0)
        items.zero_grad()
        items()[SEEN].square().sum().backward()
        self.assertEqual((items.delta.weight.grad.abs().sum(dim=1) > 0).nonzero().flatten().tolist(), SEEN)

    def test_what_is_always_dropped_is_there_when_it_counts(self):
        items = self.items(delta_dropout=1.0)
        base = items.base(self.x)
        self.assertTrue(torch.equal(items.train()(), base))
        full = items.eval()()
        self.assertTrue(torch.equal(full[SEEN], (base + items.delta.weight)[SEEN]))
        self.assertTrue(torch.equal(full[UNSEEN], base[UNSEEN]))

    def test_a_delta_is_dropped_whole_and_the_others_are_not_scaled(self):
        count, kept = 1000, 0
        items = self.example.ItemVectors(count, 4, torch.zeros(count, 8), [1] * count, delta_dropout=0.2)
        table = items()
        for row, delta in zip(table, items.delta.weight):
            self.assertTrue(torch.equal(row, delta) or not row.any())
            kept += bool(row.any())
        self.assertAlmostEqual(kept / count, 0.8, delta=0.05)
        self.assertFalse(torch.equal(table, items()), "each step draws anew")

    def test_the_bound_holds(self):
        items = self.items(delta_bound=0.5).eval()
        with torch.no_grad():
            items.delta.weight.copy_(torch.randn(6, 4) * 10)
            items.delta.weight[2] = torch.tensor([0.1, 0.0, 0.2, 0.0])
            items.delta.weight[4] = 0
        moved = items() - items.base(self.x)
        self.assertAlmostEqual(moved[1].norm().item(), 0.5, places=5)
        torch.testing.assert_close(moved[2], items.delta.weight[2])
        cosine = torch.cosine_similarity(moved[1], items.delta.weight[1], dim=0)
        self.assertAlmostEqual(cosine.item(), 1.0, places=5)
        items().square().sum().backward()
        self.assertTrue(items.delta.weight.grad.isfinite().all())

    def test_the_loss_leaves_out_items_never_seen(self):
        items = self.items(delta_dropout=0.0)
        before = items.seen_loss(self.states, self.targets)
        table = items()
        wanted = torch.nn.functional.cross_entropy(self.states @ table[SEEN].T, torch.tensor([0, 2, 1, 2, 0]))
        torch.testing.assert_close(before, wanted)
        changed = self.x.clone()
        changed[UNSEEN] = 100 * torch.randn(3, 8)
        items.refresh(changed)
        self.assertTrue(torch.equal(items.seen_loss(self.states, self.targets), before))
        changed[2] += 1
        items.refresh(changed)
        self.assertFalse(torch.equal(items.seen_loss(self.states, self.targets), before))

    def test_a_target_must_be_seen(self):
        for target in (3, -100):
            with self.assertRaises((IndexError, RuntimeError)):
                self.items().seen_loss(self.states[:1], torch.tensor([target]))

    def test_the_loss_takes_the_table_of_the_states(self):
        items = self.items(delta_dropout=0.5)
        table = items()
        once = items.seen_loss(self.states, self.targets, table)
        self.assertTrue(torch.equal(items.seen_loss(self.states, self.targets, table), once))

    def test_a_refresh_moves_items_never_seen_and_brings_new_ones(self):
        items = self.items().eval()
        before, weight = self.states @ items().T, items.base.weight.clone()
        tonight = torch.cat([self.x, torch.randn(2, 8)])
        tonight[3] = torch.randn(8)
        items.refresh(tonight.numpy())
        after = self.states @ items().T
        self.assertEqual(after.shape, (5, 8))
        torch.testing.assert_close(after[:, [0, 1, 2, 4, 5]], before[:, [0, 1, 2, 4, 5]])
        self.assertGreater((after[:, 3] - before[:, 3]).abs().min().item(), 0)
        torch.testing.assert_close(after[:, 6:], self.states @ (tonight[6:] @ weight.T).T)
        self.assertTrue(torch.equal(items.base.weight, weight))
        self.assertEqual(items.known().tolist(), [False] + [True] * 7)
        # The caller's array stays the caller's.
        tonight.zero_()
        torch.testing.assert_close(self.states @ items().T, after)

    def test_wrong_shapes_are_refused(self):
        for wrong in (self.x[:5], torch.randn(6, 7), torch.randn(6)):
            with self.assertRaises(ValueError):
                self.items().refresh(wrong)
        with self.assertRaises(ValueError):
            self.example.ItemVectors(5, 4, self.x, COUNTS)
        with self.assertRaises(ValueError):
            self.example.ItemVectors(6, 4, self.x, COUNTS[:5])

    def test_a_checkpoint_is_loaded_whatever_tonight_has(self):
        items = self.items().eval()
        table = items()
        items.refresh(torch.randn(9, 8))
        again = self.items().eval()
        again.load_state_dict(items.state_dict())
        self.assertTrue(torch.equal(again(), table))


@unittest.skipUnless(torch, "PyTorch is not installed")
class Whitening(Seeded):
    def setUp(self):
        super().setUp()
        # One direction that all share, and others of very different lengths.
        self.vectors = torch.randn(300, 12) * torch.logspace(0, -2, 12) + 20
        self.vectors[5] = 0
        self.fit = torch.arange(200)

    def test_fitted_rows_become_white(self):
        white, _ = self.example.whiten(self.vectors, self.fit, 6)
        rows = white[self.fit[self.fit != 5]]
        torch.testing.assert_close(rows.T @ rows / len(rows), torch.eye(6), atol=1e-2, rtol=0)
        torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6), atol=1e-2, rtol=0)
        self.assertFalse(white[5].any(), "what is missing stays zeros")

    def test_other_rows_do_not_count(self):
        white, fitted = self.example.whiten(self.vectors, self.fit, 6)
        other = self.vectors.clone()
        other[200:] *= 50
        again, _ = self.example.whiten(other.numpy(), self.fit.numpy(), 6)
        self.assertTrue(torch.equal(again[:200], white[:200]))
        self.assertTrue(torch.equal(self.example.apply_whitening(other, fitted), again))

    def test_directions_without_spread_are_not_scaled_up(self):
        flat = self.vectors.clone()
        flat[:, 4:] = 20
        flat[5] = 0
        flat[250, 4:] = 0
        white, _ = self.example.whiten(flat, self.fit, 12)
        self.assertEqual(white.shape, (300, 12))
        self.assertLess(white.abs().max().item(), 100)
        self.assertFalse(white[:, 4:].any())


@unittest.skipUnless(torch, "PyTorch is not installed")
class Ranker(Seeded):
    def mean_place(self, texts, taste, histories, targets, counts):
        """Where unseen items of a user's taste stand among all, from 0 (first) to 1 (last), after a short training."""
        white, _ = self.example.whiten(texts, counts.nonzero().flatten(), 16)
        items = self.example.ItemVectors(len(texts), 16, white, counts)
        model = self.example.NextItem(items, 16, length=histories.shape[1])
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(100):
            optimiser.zero_grad()
            model.loss(histories, targets).backward()
            optimiser.step()
        scores = model.eval().scores(histories)
        self.assertTrue((scores[:, 0] == float("-inf")).all(), "row 0 is no item")
        places = (-scores).argsort(dim=1).argsort(dim=1) / (len(texts) - 2)
        fits = (counts == 0) & (taste == taste[targets].unsqueeze(1))
        return places[fits].mean().item()

    def test_an_item_that_nobody_took_is_found_by_its_text(self):
        texts, taste, histories, targets = self.example.made_up_log()
        counts = torch.bincount(torch.cat([histories.flatten(), targets]), minlength=len(texts))
        self.assertEqual((counts == 0).sum().item(), 1 + 8 * 3)
        self.assertLess(self.mean_place(texts, taste, histories, targets, counts), 0.2)
        # With texts that tell nothing of the taste it stands where chance puts it.
        silent = torch.cat([texts[:1], torch.randn(len(texts) - 1, texts.shape[1])])
        self.assertGreater(self.mean_place(silent, taste, histories, targets, counts), 0.35)

    def test_padding_changes_nothing(self):
        texts, _, histories, targets = self.example.made_up_log(users=50)
        counts = torch.bincount(torch.cat([histories.flatten(), targets]), minlength=len(texts))
        model = self.example.NextItem(self.example.ItemVectors(len(texts), 16, texts, counts), 16, length=6).eval()
        short = histories.clone()
        short[:, 3:] = 0
        table = model.items()
        wanted = model.mix((table[histories[:, :3]] * model.a[:3].unsqueeze(1)).sum(dim=1))
        torch.testing.assert_close(model.states(table, short), wanted)

    def test_the_example_runs(self):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        self.assertRegex(said.getvalue(), r"^unseen items of a user's taste: place \d+ of 96, by chance 48\n$")


if __name__ == "__main__":
    unittest.main()
