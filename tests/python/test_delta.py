"""Published tables with a Delta log, read by delta-rs, against DuckDB over the plain Parquet files.

    CUREC_DELTA_WAREHOUSE=<root of the published tables> python tests/python/test_delta.py

Without the variable the tests are skipped; tests/cli/delta.rs sets it after runs of its own, of which some have replaced
days. No other files than those of the published days may lie there (`curec gc` has been run).

What must hold of every table with `_delta_log`: delta-rs counts the same files and rows, in all and by day; its types are
those that DuckDB finds; and its values are the same, vectors included, to the bit.
"""

import datetime
import os
import unittest
from pathlib import Path

WAREHOUSE = os.environ.get("CUREC_DELTA_WAREHOUSE", "")

# DuckDB's names of types, as Delta has them.
TYPES = {
    "VARCHAR": "string",
    "BOOLEAN": "boolean",
    "INTEGER": "integer",
    "BIGINT": "long",
    "FLOAT": "float",
    "DOUBLE": "double",
    "DATE": "date",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
}


def tables():
    """The folders of tables with a log."""
    return sorted(path.parent for path in Path(WAREHOUSE).glob("*/_delta_log"))


def parquet(table):
    """The table for DuckDB, read as plain files."""
    return f"read_parquet('{table}/dt=*/part-*.parquet', hive_partitioning = true)"


def plain(value):
    """A value that compares whatever the reader: moments as microseconds, nested values as tuples."""
    if isinstance(value, datetime.datetime):
        assert value.tzinfo is not None and value.utcoffset() == datetime.timedelta(0), f"{value} is not in UTC"
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return (value - epoch) // datetime.timedelta(microseconds=1)
    if isinstance(value, dict):
        return tuple((name, plain(inner)) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(plain(inner) for inner in value)
    return value


def rows(table):
    """The rows of an Arrow table, in an order of their own."""
    names = sorted(table.schema.names)
    return sorted(tuple((name, repr(plain(row[name]))) for name in names) for row in table.to_pylist())


@unittest.skipUnless(WAREHOUSE, "CUREC_DELTA_WAREHOUSE is not set")
class DeltaReaders(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import deltalake
        import duckdb

        cls.open = staticmethod(lambda table: deltalake.DeltaTable(str(table)))
        cls.duckdb = duckdb.connect()
        cls.duckdb.execute("set TimeZone = 'UTC'")

    def ask(self, query):
        return self.duckdb.execute(query).fetchall()

    def test_there_is_something_to_read(self):
        names = [table.name for table in tables()]
        self.assertIn("item_feature", names)
        self.assertIn("user_feature", names)
        self.assertTrue(any(self.open(table).version() > 0 for table in tables()), "no table has a second version")

    def test_files_and_counts(self):
        for table in tables():
            with self.subTest(table=table.name):
                delta = self.open(table)
                listed = sorted(Path(uri).relative_to(table.resolve()).as_posix() for uri in delta.file_uris())
                there = sorted(path.relative_to(table).as_posix() for path in table.glob("dt=*/part-*.parquet"))
                self.assertEqual(listed, there)
                if not there:
                    continue
                counted = self.ask(f"select dt, count(*) from {parquet(table)} group by dt order by dt")
                days = delta.to_pyarrow_table(columns=["dt"]).column("dt").to_pylist()
                self.assertEqual([(day, days.count(day)) for day in sorted(set(days))], counted)

    def test_types(self):
        for table in tables():
            if not any(table.glob("dt=*/part-*.parquet")):
                continue
            with self.subTest(table=table.name):
                fields = {field.name: field.type for field in self.open(table).schema().fields}
                described = self.ask(f"describe select * from {parquet(table)}")
                self.assertEqual(set(fields), {name for name, *_ in described})
                for name, kind, *_ in described:
                    if kind in TYPES:
                        self.assertEqual(fields[name].type, TYPES[kind], name)
                    elif kind.endswith("]"):
                        self.assertEqual(fields[name].type, "array", name)
                    else:
                        self.assertTrue(kind.startswith("STRUCT"), f"{name}: {kind}")
                        self.assertEqual(fields[name].type, "struct", name)
                if "embedding" in fields:
                    self.assertEqual(fields["embedding"].element_type.type, "float")

    def test_values(self):
        import pyarrow as pa

        for table in tables():
            if not any(table.glob("dt=*/part-*.parquet")):
                continue
            with self.subTest(table=table.name):
                mine = self.open(table).to_pyarrow_table()
                theirs = self.duckdb.sql(f"select * from {parquet(table)}").to_arrow_table()
                self.assertIsInstance(theirs, pa.Table)
                self.assertGreater(mine.num_rows, 0)
                self.assertEqual(rows(mine), rows(theirs))


if __name__ == "__main__":
    unittest.main()
