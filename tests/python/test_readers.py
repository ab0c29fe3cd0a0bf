"""The published features as a ranker's own tools see them: pyarrow, DuckDB, Polars and pandas must agree.

    CUREC_WAREHOUSE=<root of the published tables> python tests/python/test_readers.py

Reads <root>/<table>/dt=*/part-*.parquet for item_feature and user_feature. Without CUREC_WAREHOUSE the tests are
skipped; tests/cli/pipeline.rs sets it after a run of its own. CUREC_READERS names what must be importable
(default "pyarrow duckdb polars pandas"); a reader that is missing then is a failure, not a skip. Spark, datasets, Feast and every
other table: ci/readers_runs.py.

What must hold: same rows and same values in all four; the embedding keeps its fixed width; timestamps are
microseconds in UTC; each file is sorted by its key and each key stands once in a partition; created_timestamp is one
moment per partition and not before event_timestamp; rows that are flagged `missing` carry no signal in one consistent
way (all null, or all zeros) and no other row does.
"""

import datetime
import math
import os
import unittest
from pathlib import Path

WAREHOUSE = os.environ.get("CUREC_WAREHOUSE", "")
KEYS = {"item_feature": "item_id", "user_feature": "user_id"}
COLUMNS = ["event_timestamp", "created_timestamp", "embedding", "n_reasons", "mean_score", "missing"]


def parts(table):
    """The table's files in the order of their paths, so that all readers see the same row order."""
    return sorted(Path(WAREHOUSE, table).glob("dt=*/part-*.parquet"))


def micros(value):
    """Microseconds since the epoch of an aware datetime."""
    assert value.tzinfo is not None and value.utcoffset() == datetime.timedelta(0), f"{value} is not in UTC"
    return (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def plain(row, key):
    """A row as plain Python values; floats are compared exactly, and a NaN, never equal to itself, shows."""
    embedding = row["embedding"]
    return (
        row[key],
        micros(row["event_timestamp"]),
        micros(row["created_timestamp"]),
        None if embedding is None else tuple(float(v) for v in embedding),
        row["n_reasons"],
        row["mean_score"],
        row["missing"],
    )


def with_pyarrow(table, key):
    import pyarrow.parquet as pq

    rows = []
    for path in parts(table):
        rows += pq.ParquetFile(path).read(columns=[key, *COLUMNS]).to_pylist()
    return [plain(r, key) for r in rows]


def with_polars(table, key):
    import polars as pl

    rows = []
    for path in parts(table):
        rows += pl.read_parquet(path, columns=[key, *COLUMNS], hive_partitioning=False).to_dicts()
    return [plain(r, key) for r in rows]


def with_duckdb(table, key):
    import duckdb

    rows = []
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    # epoch_us, because fetching a TIMESTAMPTZ would need pytz as well.
    query = f"""
        select {key}, epoch_us(event_timestamp), epoch_us(created_timestamp), embedding, n_reasons, mean_score, missing
        from read_parquet(?, hive_partitioning = false, file_row_number = true)
        order by file_row_number
    """
    for path in parts(table):
        for k, event, created, embedding, n, score, missing in connection.execute(query, [str(path)]).fetchall():
            vector = None if embedding is None else tuple(float(v) for v in embedding)
            rows.append((k, event, created, vector, n, score, missing))
    return rows


def with_pandas(table, key):
    import numpy as np
    import pandas as pd

    rows = []
    for path in parts(table):
        frame = pd.read_parquet(path, columns=[key, *COLUMNS])
        assert all(vector.dtype == np.float32 for vector in frame["embedding"]), f"{path}: embedding is not float32"
        for row in frame.to_dict("records"):
            # Its own type for numbers has no null.
            score = None if pd.isna(row["mean_score"]) else row["mean_score"]
            rows.append(plain({**row, "mean_score": score}, key))
    return rows


@unittest.skipUnless(WAREHOUSE, "CUREC_WAREHOUSE is not set")
class Readers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for module in os.environ.get("CUREC_READERS", "pyarrow duckdb polars pandas").split():
            __import__(module)

    def tables(self):
        """(table, key) of what is published; item_feature must be."""
        published = [(table, key) for table, key in KEYS.items() if parts(table)]
        self.assertIn(("item_feature", "item_id"), published, f"no published item_feature under {WAREHOUSE}")
        return published

    def test_all_readers_see_the_same_rows(self):
        for table, key in self.tables():
            arrow = with_pyarrow(table, key)
            self.assertGreater(len(arrow), 0, "no rows")
            for name, read in (("polars", with_polars), ("duckdb", with_duckdb), ("pandas", with_pandas)):
                rows = read(table, key)
                self.assertEqual(len(rows), len(arrow), f"{name} sees another number of rows")
                for mine, theirs in zip(arrow, rows):
                    self.assertEqual(theirs, mine, f"{name} and pyarrow differ at {key} {mine[0]!r}")

    def test_hive_readers_see_the_whole_table(self):
        import duckdb
        import polars as pl
        import pyarrow.dataset as ds

        for table, _ in self.tables():
            root = Path(WAREHOUSE, table)
            rows = ds.dataset(root, format="parquet", partitioning="hive").count_rows()
            counted = duckdb.connect().execute(
                "select count(*), count(dt) from read_parquet(?, hive_partitioning = true)",
                [f"{root}/dt=*/*.parquet"],
            ).fetchone()
            self.assertEqual(counted, (rows, rows))
            lazy = pl.scan_parquet(f"{root}/dt=*/*.parquet", hive_partitioning=True)
            self.assertEqual(lazy.select(pl.len()).collect().item(), rows)
            self.assertIn("dt", lazy.collect_schema().names())

    def test_types(self):
        import polars as pl
        import pyarrow as pa
        import pyarrow.parquet as pq

        for table, key in self.tables():
            widths = set()
            for path in parts(table):
                schema = pq.ParquetFile(path).schema_arrow
                vector = schema.field("embedding").type
                self.assertTrue(pa.types.is_fixed_size_list(vector), f"{path}: embedding is {vector}")
                self.assertEqual(vector.value_type, pa.float32())
                widths.add(vector.list_size)
                for name in ("event_timestamp", "created_timestamp"):
                    self.assertEqual(schema.field(name).type, pa.timestamp("us", tz="UTC"), f"{path}: {name}")
                self.assertEqual(schema.field("missing").type, pa.bool_())
                self.assertTrue(pa.types.is_integer(schema.field("n_reasons").type))
                self.assertTrue(pa.types.is_floating(schema.field("mean_score").type))
                for name in (key, "event_timestamp", "created_timestamp", "n_reasons", "missing"):
                    self.assertFalse(schema.field(name).nullable, f"{path}: {name} should not be nullable")
                self.assertNotIn("dt", schema.names, "the partition column stands in the path, not in the file")
                self.assertEqual(
                    pl.read_parquet_schema(path)["embedding"], pl.Array(pl.Float32, vector.list_size), f"{path}"
                )
            self.assertEqual(len(widths), 1, f"{table} mixes widths {widths}")

    def test_keys_and_times(self):
        import pyarrow.parquet as pq

        for table, key in self.tables():
            seen, created = {}, {}
            for path in parts(table):
                rows = pq.ParquetFile(path).read(columns=[key, "event_timestamp", "created_timestamp"]).to_pylist()
                keys = [r[key] for r in rows]
                self.assertNotIn(None, keys)
                self.assertEqual(keys, sorted(keys), f"{path} is not sorted by {key}")
                for row in rows:
                    grain = (row[key], row["event_timestamp"])
                    partition = seen.setdefault(path.parent.name, set())
                    self.assertNotIn(grain, partition, f"{path}: {grain} twice")
                    partition.add(grain)
                    created.setdefault(path.parent.name, set()).add(row["created_timestamp"])
                    self.assertLessEqual(row["event_timestamp"], row["created_timestamp"])
            for partition, moments in created.items():
                self.assertEqual(len(moments), 1, f"{table}/{partition}: created_timestamp is the build's logical time")

    def test_missing_rows_say_so_consistently(self):
        for table, key in self.tables():
            forms = set()
            for row in with_pyarrow(table, key):
                _, _, _, embedding, n_reasons, score, missing = row
                empty = embedding is None or not any(embedding)
                self.assertEqual(missing, n_reasons == 0, f"{table} {row[0]!r}: missing={missing}, n_reasons={n_reasons}")
                self.assertEqual(missing, empty, f"{table} {row[0]!r}: the embedding does not fit missing={missing}")
                if missing:
                    forms.add("null" if embedding is None else "zeros")
                else:
                    self.assertIsNotNone(score)
                    self.assertTrue(math.isfinite(score))
                    self.assertTrue(all(math.isfinite(v) for v in embedding))
            self.assertLessEqual(len(forms), 1, f"{table} writes missing embeddings as {forms}")


if __name__ == "__main__":
    unittest.main()
