"""How other tools read a published table, each as its own documents say; ci/readers_runs.py compares what they return.

A reader takes the table's folder and returns ({column: type}, [row as a dictionary]). Types have one name whatever the reader:
Spark's (`string`, `int`, `timestamp`, `array<float>` ...). `widths` tells which vectors a reader knows the width of. Knows
nothing of curec, but that days are folders `dt=YYYY-MM-DD`.
"""

import datetime
from pathlib import Path

import pyarrow as pa

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
NAMES = {
    pa.bool_(): "boolean", pa.int32(): "int", pa.int64(): "bigint", pa.float32(): "float", pa.float64(): "double",
    pa.date32(): "date", pa.timestamp("us", tz="UTC"): "timestamp",
}


def type_name(kind):
    """Spark's name of an Arrow type."""
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"array<{type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{field.name}:{type_name(field.type)}' for field in kind)}>"
    return NAMES.get(kind, str(kind))


def plain(value):
    """A value that compares whatever the reader: moments as microseconds, nested values as tuples, NaN as null (pandas)."""
    if isinstance(value, datetime.datetime):
        assert value.utcoffset() == datetime.timedelta(0), f"{value} is not in UTC"
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, dict):
        return tuple((name, plain(inner)) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(plain(inner) for inner in value)
    return None if value != value else value


def of_arrow(table):
    """Types and rows of an Arrow table."""
    return {f.name: type_name(f.type) for f in table.schema}, [{k: plain(v) for k, v in row.items()} for row in table.to_pylist()]


def widths(schema):
    """{column: width} of the vectors of an Arrow schema."""
    return {f.name: f.type.list_size for f in schema if pa.types.is_fixed_size_list(f.type)}


def with_pyarrow(folder):
    import pyarrow.dataset as ds

    table = ds.dataset(folder, format="parquet", partitioning="hive").to_table()
    return *of_arrow(table), widths(table.schema)


def with_pandas(folder):
    import numpy as np
    import pandas as pd

    # As a ranker would: vectors are float32 arrays.
    frame = pd.read_parquet(folder)
    for name in ("embedding", "collaborative"):
        if name in frame:
            assert all(v.dtype == np.float32 for v in frame[name].dropna()), f"pandas: {name} is not float32"
    # With Arrow's types nothing is lost: integers that may be null stay integers.
    return *of_arrow(pa.Table.from_pandas(pd.read_parquet(folder, dtype_backend="pyarrow"), preserve_index=False)), None


def with_polars(folder):
    import polars as pl

    table = pl.scan_parquet(f"{folder}/dt=*/part-*.parquet", hive_partitioning=True).collect().to_arrow()
    return *of_arrow(table), widths(table.schema)


def duckdb_session():
    import duckdb

    session = duckdb.connect()
    session.execute("set TimeZone = 'UTC'")
    return session


def with_duckdb(folder):
    files = f"{folder}/dt=*/part-*.parquet"
    table = duckdb_session().sql(f"select * from read_parquet('{files}', hive_partitioning = true)").to_arrow_table()
    return *of_arrow(table), None


def with_hugging_face(folder):
    """`datasets`, whole and streamed. The partition date is no column there."""
    import hugging_face

    warehouse, name = folder.rsplit("/", 1)
    whole = hugging_face.table(warehouse, name)
    types, rows = of_arrow(whole.with_format("arrow")[:])
    streamed = []
    for batch in hugging_face.table(warehouse, name, streaming=True).with_format("arrow").iter(batch_size=7):
        streamed += of_arrow(batch)[1]
    assert streamed == rows, f"datasets: {name} has other rows when it is streamed"
    return types, rows, widths(whole.features.arrow_schema)


class Spark:
    """Apache Spark on this machine, for plain Parquet."""

    def __init__(self, scratch):
        from pyspark.sql import SparkSession

        settings = {
            "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.driver.memory": "1g",
            "spark.sql.session.timeZone": "UTC", "spark.sql.shuffle.partitions": "2",
            # A bar on standard error would swallow the line that says what was read.
            "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false",
            "spark.sql.warehouse.dir": f"{scratch}/spark-warehouse",
        }
        builder = SparkSession.builder.master("local[2]").appName("readers")
        for name, value in settings.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()
        self.session.sparkContext.setLogLevel("ERROR")

    def parquet(self, folder):
        return of_spark(self.session.read.parquet(folder))

    def stop(self):
        self.session.stop()


def of_spark(frame):
    """Types as Spark has them, rows, and no widths: a vector is an array there."""
    _, rows = of_arrow(frame.toArrow())
    return dict(frame.dtypes), rows, None


def delta_with_delta_rs(folder):
    import deltalake

    return *of_arrow(deltalake.DeltaTable(folder).to_pyarrow_table()), None


def delta_with_polars(folder):
    import polars as pl

    return *of_arrow(pl.scan_delta(folder, use_pyarrow=True).collect().to_arrow()), None


def install_delta_extension():
    """Puts DuckDB's Delta extension, which a package brings, where DuckDB looks for it ($HOME/.duckdb), also for Feast."""
    import duckdb
    import duckdb_extension_delta

    folder = Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    duckdb.connect().execute(f"install '{folder}/delta.duckdb_extension'")


def delta_with_duckdb(folder):
    """DuckDB's extension: the Delta kernel, the protocol's own implementation."""
    session = duckdb_session()
    session.execute("load delta")
    return *of_arrow(session.sql(f"select * from delta_scan('{folder}')").to_arrow_table()), None
