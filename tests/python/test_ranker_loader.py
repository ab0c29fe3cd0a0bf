"""jobs/loaders/ranker_loader.py against pyarrow's own reading of the same files.

    CUREC_EXPORT=<folder of curec export> python tests/python/test_ranker_loader.py

tests/cli/export.rs sets CUREC_EXPORT to an export of its own; without it a small one is made here, which needs pyarrow
too. Where PyTorch is not installed, a stand-in of the four names that the loader uses takes its place.
"""

import importlib.util
import json
import math
import os
import sys
import tempfile
import types
import unittest
import warnings
from pathlib import Path

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None

LOADER = Path(__file__).resolve().parents[2] / "jobs/loaders/ranker_loader.py"


def load(stand_in):
    """The loader as a module of its own, with a stand-in for torch or with whatever is installed."""
    spec = importlib.util.spec_from_file_location("ranker_loader", LOADER)
    module = importlib.util.module_from_spec(spec)
    names = ("torch", "torch.utils", "torch.utils.data")
    before = {name: sys.modules.get(name) for name in names}
    if stand_in:
        sys.modules.update(fake_torch())
    try:
        spec.loader.exec_module(module)
    finally:
        if stand_in:
            for name in names:
                if before[name] is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = before[name]
    return module


class FakeTensor:
    def __init__(self, values):
        self.values = values
        self.shape = values.shape

    def reshape(self, shape):
        return FakeTensor(memoryview(self.values.obj).cast(self.values.format, list(shape)))

    def bool(self):
        return FakeBool([bool(v) for v in self.values.tolist()])

    def tolist(self):
        return self.values.tolist()


class FakeBool:
    def __init__(self, values):
        self.values, self.shape = values, (len(values),)

    def tolist(self):
        return self.values


def fake_torch(worker=None):
    torch, utils, data = (types.ModuleType(name) for name in ("torch", "torch.utils", "torch.utils.data"))
    torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8 = "f", "d", "i", "q", "B"
    torch.frombuffer = lambda buffer, dtype: FakeTensor(memoryview(buffer).cast(dtype))
    data.IterableDataset = type("IterableDataset", (), {})
    data.get_worker_info = lambda: worker
    torch.utils, utils.data = utils, data
    return {"torch": torch, "torch.utils": utils, "torch.utils.data": data}


def make_export(folder):
    """Two files of two row groups, with nulls where an export may have them."""
    moment = pa.timestamp("us", tz="UTC")
    vector, mapped = (pa.list_(pa.field("item", pa.float32(), nullable=False), width) for width in (3, 2))
    listed = []
    for number in range(2):
        rows = range(number * 10, number * 10 + 10)
        table = pa.table(
            {
                "user_id": pa.array([f"u{i % 3}" for i in rows]),
                "item_id": pa.array([f"i{i % 4}' \u65e5" for i in rows]),
                "event": pa.array([None if i % 2 else "click" for i in rows], pa.string()),
                "rating": pa.array([None if i % 5 == 0 else float(i) for i in rows], pa.float32()),
                "event_timestamp": pa.array([i * 1000 for i in rows], moment),
                "item_event_timestamp": pa.array([None if i < 4 else i for i in rows], moment),
                "item_embedding": pa.array([[i, i + 0.5, -i] for i in rows], vector),
                "item_collaborative": pa.array([[i, -i] if i > 5 else None for i in rows], mapped),
                "item_words": pa.array([None if i < 4 else ["film", f"w{i % 3}"][: i % 3] for i in rows], pa.list_(pa.string())),
                "item_n_reasons": pa.array([i % 2 for i in rows], pa.int32()),
                "item_missing": pa.array([i < 4 for i in rows]),
            }
        )
        # As curec writes it.
        fields = [field.with_nullable(field.name != "item_embedding") for field in table.schema]
        table = pa.Table.from_arrays(table.columns, schema=pa.schema(fields))
        name = f"part-{number:05}.parquet"
        pq.write_table(table, folder / name, row_group_size=6)
        listed.append({"name": name, "rows": 10, "bytes": 0, "blake3": ""})
    # What no record lists does not count.
    pq.write_table(table, folder / "part-99999.parquet")
    (folder / "_export.json").write_text(json.dumps({"format": 1, "files": listed}), encoding="utf-8")


@unittest.skipIf(pa is None, "pyarrow is not installed")
class Loader(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.loader = load(stand_in=True)
        cls.folder = os.environ.get("CUREC_EXPORT")
        if not cls.folder:
            cls.kept = tempfile.TemporaryDirectory()
            cls.addClassCleanup(cls.kept.cleanup)
            cls.folder = cls.kept.name
            make_export(Path(cls.folder))
        names = [f["name"] for f in json.loads(Path(cls.folder, "_export.json").read_text(encoding="utf-8"))["files"]]
        cls.table = pa.concat_tables([pq.ParquetFile(Path(cls.folder, name)).read() for name in names])
        assert len(cls.table) > 0

    def rows(self, batches):
        """Rows as comparable tuples, NaN as text."""
        out = []
        for batch in batches:
            columns = [v if isinstance(v, list) else v.tolist() for v in batch.values()]
            out += [tuple(plain(v) for v in row) for row in zip(*columns)]
        return out

    def expected(self):
        out = []
        for row in self.table.select(self.table.column_names).to_pylist():
            values = []
            for name, value in row.items():
                field = self.table.schema.field(name)
                kind = field.type
                if pa.types.is_fixed_size_list(kind):
                    values.append(plain([0.0] * kind.list_size if value is None else value))
                    values += [int(value is None)] * field.nullable
                    continue
                if pa.types.is_list(kind):
                    values.append(plain(value or []))
                    continue
                if pa.types.is_timestamp(kind):
                    value = -1 if value is None else round(value.timestamp() * 1_000_000)
                elif pa.types.is_floating(kind):
                    value = math.nan if value is None else value
                elif pa.types.is_boolean(kind):
                    value = int(value)
                values.append(plain(value))
            out.append(tuple(values))
        return out

    def test_rows_come_in_order_and_whole(self):
        for size in (1, 7, 1 << 20):
            batches = list(self.loader.batches(self.folder, batch_rows=size))
            self.assertTrue(all(0 < len(b["user_id"]) <= size for b in batches))
            self.assertEqual(self.rows(batches), self.expected())

    def test_vectors_are_dense(self):
        batch = next(self.loader.batches(self.folder, batch_rows=5, columns=["item_embedding"]))
        self.assertEqual(list(batch), ["item_embedding"])
        values, width = batch["item_embedding"], self.table.schema.field("item_embedding").type.list_size
        self.assertEqual((values.format, values.shape[1]), ("f", width))
        self.assertFalse(values.readonly)

    def test_a_vector_that_is_null_is_zeros_and_told(self):
        nullable = [field.name for field in self.table.schema if field.nullable and pa.types.is_fixed_size_list(field.type)]
        if not os.environ.get("CUREC_EXPORT"):
            self.assertEqual(nullable, ["item_collaborative"])
        for name in nullable:
            for options in ({}, {"batch_rows": 3}, {"shuffle": True}):
                batches = list(self.loader.batches(self.folder, columns=["event_timestamp", name], **options))
                self.assertEqual({tuple(batch) for batch in batches}, {("event_timestamp", name, f"{name}_missing")})
                found = [
                    (moment, tuple(vector), missing)
                    for batch in batches
                    for moment, vector, missing in zip(*(values.tolist() for values in batch.values()))
                ]
                zeros = [0.0] * self.table.schema.field(name).type.list_size
                moments = self.table.column("event_timestamp").cast(pa.int64()).to_pylist()
                wanted = [
                    (moment, tuple(vector or zeros), int(vector is None))
                    for moment, vector in zip(moments, self.table.column(name).to_pylist())
                ]
                self.assertEqual(sorted(found), sorted(wanted))
                self.assertIn(1, {missing for _, _, missing in found})

    def test_shuffling_keeps_every_row_and_repeats_by_seed(self):
        shuffled = [self.rows(self.loader.batches(self.folder, shuffle=True, seed=s)) for s in (1, 1, 2)]
        self.assertEqual(shuffled[0], shuffled[1])
        self.assertNotEqual(shuffled[0], shuffled[2])
        self.assertEqual(sorted(map(repr, shuffled[2])), sorted(map(repr, self.expected())))

    def test_shards_share_the_rows_out(self):
        rows = []
        for which in range(3):
            rows += self.rows(self.loader.batches(self.folder, shard=(which, 3)))
        self.assertEqual(sorted(map(repr, rows)), sorted(map(repr, self.expected())))

    def test_a_vocabulary_makes_ids_numbers(self):
        known = self.loader.vocabulary(self.folder, "item_id")
        self.assertEqual(sorted(known.values()), list(range(1, len(known) + 1)))
        batches = self.loader.batches(self.folder, columns=["item_id"], vocabularies={"item_id": known})
        back = {number: text for text, number in known.items()}
        texts = [back[number] for batch in batches for number in batch["item_id"].tolist()]
        self.assertEqual(texts, self.table.column("item_id").to_pylist())
        batch = next(self.loader.batches(self.folder, columns=["item_id"], vocabularies={"item_id": {}}))
        self.assertEqual(set(batch["item_id"].tolist()), {0})

    def test_lists_of_text_are_lists_of_numbers_by_a_vocabulary(self):
        known = self.loader.vocabulary(self.folder, "item_words")
        self.assertEqual(sorted(known.values()), list(range(1, len(known) + 1)))
        back = {number: text for text, number in known.items()}
        batches = list(self.loader.batches(self.folder, columns=["item_words"], vocabularies={"item_words": known}))
        lists = [[back[number] for number in numbers] for batch in batches for numbers in batch["item_words"]]
        self.assertEqual(lists, [words or [] for words in self.table.column("item_words").to_pylist()])

    def test_half_an_export_is_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(OSError):
                next(self.loader.batches(folder))

    def test_the_torch_data_set(self):
        loader = load(stand_in=importlib.util.find_spec("torch") is None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = loader.RankerDataset(self.folder, batch_rows=4)
            batches = list(data)
        self.assertEqual(sum(b["item_embedding"].shape[0] for b in batches), len(self.table))
        missing = [m for b in batches for m in b["item_missing"].tolist()]
        self.assertEqual(missing, self.table.column("item_missing").to_pylist())
        self.assertTrue(all(isinstance(m, bool) for m in missing))
        vectors = [v for b in batches for v in b["item_embedding"].tolist()]
        self.assertEqual(vectors, self.table.column("item_embedding").to_pylist())
        shuffled = loader.RankerDataset(self.folder, shuffle=True)
        passes = []
        for epoch in (0, 1, 0):
            shuffled.set_epoch(epoch)
            passes.append([m for b in shuffled for m in b["event_timestamp"].tolist()])
        self.assertEqual(passes[0], passes[2])
        self.assertNotEqual(passes[0], passes[1])

    @unittest.skipUnless(importlib.util.find_spec("torch"), "PyTorch is not installed")
    def test_a_data_loader_with_workers(self):
        from torch.utils.data import DataLoader

        loader = load(stand_in=False)
        sys.modules["ranker_loader"] = loader
        self.addCleanup(sys.modules.pop, "ranker_loader")
        data = loader.RankerDataset(self.folder, columns=["event_timestamp", "item_embedding"], shuffle=True)
        seen = [m for b in DataLoader(data, batch_size=None, num_workers=2) for m in b["event_timestamp"].tolist()]
        wanted = self.table.column("event_timestamp").cast(pa.int64()).to_pylist()
        self.assertEqual(sorted(seen), sorted(wanted))


def plain(value):
    if isinstance(value, list):
        return tuple(value)
    return "nan" if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    unittest.main()
