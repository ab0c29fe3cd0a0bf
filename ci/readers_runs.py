"""Publishes tables with a real curec and reads them with other tools; ci/readers.sh calls it.

    python ci/readers_runs.py SCRATCH CUREC

Three nights with `[publish] delta = true`, one of them replaced by other rows. `curec sql`, which reads by commit records, tells
what every table holds; then

1. pyarrow, pandas, Polars, DuckDB, Spark and Hugging Face's `datasets` read every table as plain Parquet: same number of rows, same
   types, same values, vectors to the bit;
2. delta-rs, Polars and DuckDB's Delta kernel read every table by its Delta log: the same;
3. a run that replaces a day is killed before each change that it makes to the features' folders: readers of the log see the whole
   old day or the whole new one. Readers of plain files see both at some point, or this would prove nothing;
4. Feast: `feast apply` of what `curec export --feast` prints, and jobs/feast/training_rows.py, with both of its file stores: the
   point-in-time join is that of `curec export`, row by row and vector by vector, for events at a feature's very moment and a
   microsecond before too. Its store of type `file` leaves out events whose item or user has its first row later; what it leaves in is
   held against the export alike. What Feast serves online is each key's newest row.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "jobs/loaders"))

import readers_tools as tools  # noqa: E402
from airflow_runs import write_job  # noqa: E402

DAYS = (20, 21, 22)
FEATURES = {"item_feature": "item_id", "user_feature": "user_id"}
# Another length of answers: other reasons, and so other vectors.
OTHER_ROWS = ["--set", "sampling.max_new_tokens=9"]
DELTA = ["--set", "publish.delta=true"]


def say(text):
    print(f"readers: {text}", flush=True)


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"readers: {what}: expected {wanted!r}, got {got!r}")


class Curec:
    """The binary and the job's folder."""

    def __init__(self, scratch, binary):
        self.scratch, self.binary = scratch, binary
        self.job = str(scratch / "job/jobs/nightly.toml")

    def __call__(self, *words, fail_point=None, code=0):
        """Runs a command; returns its standard output."""
        environment = {**os.environ, **({"CUREC_FAIL_POINT": fail_point} if fail_point else {})}
        command = [self.binary, *map(str, words)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if run.returncode != code:
            sys.exit(f"readers: {' '.join(map(str, words))} ended with {run.returncode}\n{run.stdout}{run.stderr}")
        return run.stdout

    def night(self, day, *more, **drill):
        bounds = ["--interval-start", f"2026-01-{day}", "--interval-end", f"2026-01-{day + 1}"]
        return self("run", self.job, *bounds, *DELTA, *more, **drill)

    def rows(self, table, *more):
        """What a table holds, as curec reads it: types and rows."""
        out = self.scratch / "rows.parquet"
        out.unlink(missing_ok=True)
        self("sql", "--job", self.job, *more, "--format", "parquet", "--output", out, f"select * from {table}")
        return tools.of_arrow(pq.read_table(out))


def in_order(rows):
    """Rows in an order of their own, with days as texts."""
    return sorted((sorted((name, str(v) if name == "dt" else v) for name, v in row.items()) for row in rows), key=repr)


def agree(reader, table, wanted, read, without=()):
    """Holds what a reader returns against what curec has."""
    types, rows = ({k: v for k, v in wanted[0].items() if k not in without}, [
        {k: v for k, v in row.items() if k not in without} for row in wanted[1]
    ])
    got_types, got_rows, widths = read
    expect(f"{reader}, {table}: rows", len(got_rows), len(rows))
    expect(f"{reader}, {table}: columns", sorted(got_types), sorted(types))
    for name, kind in types.items():
        # A day is a text or a date, as a reader likes; a column of nulls alone has no type in some.
        if name != "dt" and any(row[name] is not None for row in rows):
            expect(f"{reader}, {table}: the type of {name}", got_types[name], kind)
    for mine, theirs in zip(in_order(rows), in_order(got_rows)):
        expect(f"{reader}, {table}: a row", theirs, mine)
    if widths is not None and "embedding" in types:
        expect(f"{reader}, {table}: the width of embedding", widths.get("embedding"), len(rows[0]["embedding"]))


def plain_parquet(curec, tables):
    spark = tools.Spark(curec.scratch)
    readers = {
        "pyarrow": (tools.with_pyarrow, ()), "pandas": (tools.with_pandas, ()), "Polars": (tools.with_polars, ()),
        "DuckDB": (tools.with_duckdb, ()), "Spark": (spark.parquet, ()), "datasets": (tools.with_hugging_face, ("dt",)),
    }
    for name, (read, without) in readers.items():
        for table, wanted in tables.items():
            agree(name, table, wanted, read(str(curec.scratch / "warehouse" / table)), without)
        say(f"{name} reads {len(tables)} tables as Parquet, {sum(len(rows) for _, rows in tables.values())} rows")
    spark.stop()


def delta_logs(curec, tables):
    readers = {
        "delta-rs": tools.delta_with_delta_rs, "Polars": tools.delta_with_polars, "DuckDB's Delta kernel": tools.delta_with_duckdb,
    }
    for name, read in readers.items():
        for table, wanted in tables.items():
            agree(f"{name} (Delta)", table, wanted, read(str(curec.scratch / "warehouse" / table)))
        say(f"{name} reads {len(tables)} Delta tables")


def half_a_day(curec):
    """Kills a run that replaces a day before each change of the features' folders, and reads what lies there."""
    whole, place = curec.scratch / "whole", curec.scratch / "replaced"
    shutil.copytree(curec.scratch / "warehouse", whole)
    elsewhere = ["--set", f"warehouse={place}"]

    def begin():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)

    begin()
    changes = curec.scratch / "changes"
    curec.night(20, *OTHER_ROWS, *elsewhere, fail_point=f"count:{changes}")
    points = {table: [] for table in FEATURES}
    for line in changes.read_text().splitlines():
        number, _, path = line.split(" ", 2)
        below = path.split("/replaced/", 1)[1].split("/")
        if below[0] in points:
            points[below[0]].append(int(number))
    for table, numbers in points.items():
        old = in_order(tools.with_pyarrow(str(whole / table))[1])
        new = in_order(tools.with_pyarrow(str(place / table))[1])
        expect(f"{table}: the day was replaced by other rows", (len(old), old == new), (len(new), False))
        points[table] = (numbers, old, new)
    for table, (numbers, old, new) in points.items():
        seen, mixed = [], 0
        for number in [*numbers, numbers[-1] + 1]:
            begin()
            curec.night(20, *OTHER_ROWS, *elsewhere, fail_point=f"before:{number}", code=-9)
            folder = str(place / table)
            for name, read in (("delta-rs", tools.delta_with_delta_rs), ("DuckDB", tools.delta_with_duckdb)):
                rows = in_order(read(folder)[1])
                if rows not in (old, new):
                    sys.exit(f"readers: {name} sees half a day of {table} before change {number}: {len(rows)} rows")
            seen.append("old" if rows == old else "new")
            mixed += in_order(tools.with_pyarrow(folder)[1]) not in (old, new)
        expect(f"{table}: first the old day, then the new one", seen, sorted(seen, reverse=True))
        expect(f"{table}: both were seen, and a mix by readers of plain files", (set(seen), mixed > 0), ({"old", "new"}, True))
        say(f"{table}: a run killed at {len(seen)} places: its Delta log shows the old day {seen.count('old')} times, the new one "
            f"{seen.count('new')} times, never half; plain files show a mix {mixed} times")


def with_edges(log, moments):
    """The log with an event at each moment of a feature and one a microsecond before it."""
    table = pq.read_table(log)
    first = table.slice(0, 1)
    at = table.schema.get_field_index("event_timestamp")
    kind = table.schema.field(at).type
    for moment in moments:
        for edge in (moment - 1, moment):
            row = first.set_column(at, table.schema.field(at), pa.array([edge]).cast(pa.timestamp("us", tz="UTC")).cast(kind))
            table = pa.concat_tables([table, row])
    return table


def feast(curec, store, delta, tables):
    """`feast apply` and a point-in-time join with one of Feast's stores, held against the export. Returns the repository."""
    repository = curec.scratch / f"feature_repo_{store}"
    shutil.copytree(ROOT / "jobs/feast", repository)
    settings = repository / "feature_store.yaml"
    text = settings.read_text(encoding="utf-8")
    expect("the sample's store", text.count("  type: duckdb\n"), 1)
    settings.write_text(text.replace("  type: duckdb\n", f"  type: {store}\n"), encoding="utf-8")
    definition = curec("export", curec.job, "--feast", *delta)
    (repository / "curec.py").write_text(definition, encoding="utf-8")
    programs = Path(sys.executable).parent
    subprocess.run([programs / "feast", "apply"], cwd=repository, check=True)
    log, out = curec.scratch / "edges.parquet", curec.scratch / f"training_{store}.parquet"
    subprocess.run([sys.executable, "training_rows.py", log, out], cwd=repository, check=True)

    exported = []
    for path in sorted((curec.scratch / "training").glob("part-*.parquet")):
        exported += tools.of_arrow(pq.read_table(path))[1]
    known = {table: {row[key] for row in tables[table][1]} for table, key in FEATURES.items()}
    by_event = {}
    for row in exported:
        is_there = {table: row[f"{table.split('_', 1)[0]}_event_timestamp"] is not None for table in FEATURES}
        if store == "file" and any(not is_there[t] and row[key] in known[t] for t, key in FEATURES.items()):
            continue
        by_event[row["user_id"], row["item_id"], row["event_timestamp"]] = row, is_there
    got = tools.of_arrow(pq.read_table(out))[1]
    expect(f"Feast ({store}): rows", len(got), len(by_event))
    joined = {table: 0 for table in FEATURES}
    for row in got:
        mine, is_there = by_event.pop((row["user_id"], row["item_id"], row["event_timestamp"]))
        for table in FEATURES:
            joined[table] += is_there[table]
            names = [name.split("__", 1)[1] for name in row if name.startswith(f"{table}__")]
            assert {"embedding", "n_reasons", "mean_score", "missing", "source"} <= set(names), names
            for name in names:
                wanted = mine[f"{table.split('_', 1)[0]}_{name}"] if is_there[table] else None
                what = f"Feast ({store}): {table}.{name} of {row['user_id']}, {row['item_id']} at {row['event_timestamp']}"
                expect(what, row[f"{table}__{name}"], wanted)
    assert all(0 < n for n in joined.values()) and (store == "file" or joined["item_feature"] < len(got)), joined
    say(f"Feast ({store}{', Delta' if delta else ''}): {len(got)} of {len(exported)} events, {joined['item_feature']} with an item's "
        f"features, {joined['user_feature']} with a user's: as curec export has them")
    return repository


def feast_online(curec, repository, tables):
    """What Feast serves after `feast materialize` is the newest row of each key."""
    from feast import FeatureStore

    programs = Path(sys.executable).parent
    subprocess.run([programs / "feast", "materialize", "2026-01-01T00:00:00", "2026-02-01T00:00:00"], cwd=repository, check=True)
    served = FeatureStore(repo_path=str(repository))
    for table, key in FEATURES.items():
        newest = {}
        for row in sorted(tables[table][1], key=lambda row: row["event_timestamp"]):
            newest[row[key]] = row
        names = ["embedding", "n_reasons", "missing", "source"]
        answer = served.get_online_features(
            features=[f"{table}:{name}" for name in names], entity_rows=[{key: k} for k in newest]
        ).to_dict()
        for name in names:
            expect(f"Feast online, {table}.{name}", [tools.plain(v) for v in answer[name]], [r[name] for r in newest.values()])
        say(f"Feast serves {len(newest)} rows of {table}, each key's newest")


def main():
    scratch, binary = Path(sys.argv[1]), sys.argv[2]
    curec = Curec(scratch, binary)
    write_job(scratch, binary)
    tools.install_delta_extension()
    for day in DAYS:
        expect(f"the night of January {day}", json.loads(curec.night(day).splitlines()[-1])["status"], "published")
    half_a_day(curec)
    curec.night(21, *OTHER_ROWS)

    warehouse = scratch / "warehouse"
    names = sorted(path.name for path in warehouse.iterdir() if any(path.glob("dt=*/part-*.parquet")))
    assert set(FEATURES) < set(names), names
    for name in names:
        assert (warehouse / name / "_delta_log").is_dir(), f"{name} has no Delta log"
    tables = {name: curec.rows(name) for name in names}
    plain_parquet(curec, tables)
    delta_logs(curec, tables)

    moments = sorted({row["event_timestamp"] for table in FEATURES for row in tables[table][1]})
    pq.write_table(with_edges(scratch / "input/interaction.parquet", moments), scratch / "edges.parquet")
    edges = ["--set", f"input.interaction={scratch}/edges.parquet"]
    curec("export", curec.job, "--out", scratch / "training", *edges)
    feast(curec, "file", [], tables)
    feast_online(curec, feast(curec, "duckdb", DELTA, tables), tables)
    say("all as expected")


if __name__ == "__main__":
    main()
