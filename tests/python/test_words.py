"""jobs/loaders/words.py: which items are near by their words.

    python tests/python/test_words.py

Needs pyarrow; skipped without.
"""

import datetime
import importlib.util
import math
import tempfile
import unittest
from pathlib import Path

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None

EXAMPLE = Path(__file__).resolve().parents[2] / "jobs/loaders/words.py"


def example():
    spec = importlib.util.spec_from_file_location("words", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@unittest.skipIf(pa is None, "pyarrow is missing")
class WordsTest(unittest.TestCase):
    WORDS = {
        "a": ["guitar", "string", "pack"],
        "b": ["guitar", "string", "gauge"],
        "c": ["guitar", "pick"],
        "d": [],
        "e": ["guitar", "string", "drum", "stick", "snare"],
    }

    def test_rare_words_join_and_common_ones_do_not(self):
        words = example().Words(self.WORDS)
        near = words.near("a")
        self.assertEqual([item for item, _ in near], ["b", "e"], "everybody has a guitar")
        self.assertEqual(words.shared("a", "b"), ["string"])
        rare, common = math.log(5 / 2), math.log(5 / 4)
        cosine = common * common / (rare * rare + common * common)
        self.assertAlmostEqual(near[0][1], cosine)
        self.assertEqual((words.near("d"), words.near("nobody")), ([], []))

    def test_a_history_counts_its_latest_item_most(self):
        words = example().Words(self.WORDS)
        near = dict(words.near("a"))
        self.assertAlmostEqual(words.scores(["a", "d"])["b"], near["b"])
        self.assertAlmostEqual(words.scores(["d", "a", "a"])["b"], near["b"] / 2)

    def test_what_training_has_not_met_teaches_no_weight(self):
        module = example()
        words = module.Words({**self.WORDS, "new": ["string", "zither"]}, fitted=self.WORDS)
        self.assertNotIn("zither", words.weights)
        self.assertEqual(words.weights, module.Words(self.WORDS).weights)
        # The shorter an item's list, the more of it the shared word is.
        self.assertEqual([item for item, _ in words.near("new")], ["a", "b", "e"])

    def test_the_newest_row_counts_and_none_from_later(self):
        def moment(day):
            return datetime.datetime(2026, 1, day, tzinfo=datetime.timezone.utc)

        with tempfile.TemporaryDirectory() as folder:
            for day, words in ((2, ["old"]), (3, ["new"]), (4, None)):
                path = Path(folder) / "item_feature" / f"dt=2026-01-{day:02}"
                path.mkdir(parents=True)
                schema = pa.schema([
                    ("item_id", pa.string()), ("event_timestamp", pa.timestamp("us", "UTC")), ("words", pa.list_(pa.string())),
                ])
                pq.write_table(pa.table([["a"], [moment(day)], [words]], schema=schema), path / "part-0.parquet")
            newest = example().newest
            self.assertEqual(newest(folder), {"a": []})
            self.assertEqual(newest(folder, moment(3)), {"a": ["new"]})
            self.assertEqual(newest(folder, moment(1)), {})


if __name__ == "__main__":
    unittest.main()
