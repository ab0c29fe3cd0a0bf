#!/usr/bin/env python3
"""`curec export` against DuckDB's ASOF JOIN: the same join of the same files, both to Parquet with zstd, in turn.

    CUREC_BIN=target/release/curec python benches/export/run.py [--events 1000000] [--days 7] [--rounds 3] [--work DIR]

Makes a log and a warehouse of `--days` days of item and user features (vectors of `--width` floats), laid out and encoded
as curec publishes them. DuckDB runs in a process of its own; only its query is timed, without starting Python. curec is
timed as a whole process, and its rows are sorted by time, which DuckDB's are not (`--sorted` has DuckDB sort as well).
Without CUREC_BIN it measures the build of the `ci` profile.
Checks that both have the same rows, then prints seconds, CPU seconds, peak memory and bytes, the medians and the ratio.
Exit code 1 where rows differ or the ratio of medians is above `--limit`. Needs duckdb and pyarrow, some 10 GB of disk,
and as much memory as DuckDB wants.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UTC = datetime.timezone.utc
START = datetime.datetime(2026, 1, 1, tzinfo=UTC)

# Values of an event without a row are made the same as curec's, so that both do the same.
DUCKDB = """
import sys, time, duckdb
work, threads, order = sys.argv[1], int(sys.argv[2]), sys.argv[3]
con = duckdb.connect()
con.execute("set TimeZone = 'UTC'")
con.execute(f"set temp_directory = '{work}/spill'")
if threads:
    con.execute(f"set threads = {threads}")
def side(name):
    columns = ["event_timestamp", "created_timestamp", "embedding", "n_reasons", "mean_score", "missing"]
    return ", ".join(f"{name}.{c} as {name}_{c}" for c in columns)
def table(name):
    return f"read_parquet('{work}/warehouse/{name}_feature/dt=*/part-*.parquet', hive_partitioning = false) as {name}"
query = f'''
    select i.user_id, i.item_id, i.event, i.rating, i.event_timestamp, {side("item")}, {side("user")}
    from read_parquet('{work}/interaction.parquet') as i
    asof left join {table("item")} on i.item_id = item.item_id and i.event_timestamp >= item.event_timestamp
    asof left join {table("user")} on i.user_id = user.user_id and i.event_timestamp >= user.event_timestamp
    {"order by i.event_timestamp, i.user_id, i.item_id" if order == "sorted" else ""}'''
query = query.replace(" as user", ' as "user"').replace("user.", '"user".').replace(' as "user"_', " as user_")
started = time.perf_counter()
con.execute(f"copy ({query}) to '{work}/duckdb.parquet' (format parquet, compression zstd)")
print(time.perf_counter() - started)
"""

# One row that tells two tables apart, whatever the order of their rows.
DIGEST = """
    select count(*),
        sum(hash(user_id, item_id, event, rating, epoch_us(event_timestamp), epoch_us(item_event_timestamp),
            epoch_us(user_event_timestamp)) % 1000000007),
        sum(hash(coalesce(item_embedding[1], 0), coalesce(item_embedding[{width}], 0), coalesce(item_n_reasons, 0),
            coalesce(user_embedding[1], 0), coalesce(user_embedding[{width}], 0), coalesce(user_missing, true))
            % 1000000007)
    from read_parquet(?)
"""


def make(work, args):
    """The log and the warehouse."""
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    con = duckdb.connect()
    con.execute("set TimeZone = 'UTC'")
    con.execute("select setseed(0.5)")
    # A few items and users have most of the events.
    con.execute(
        f"""copy (select
                'u' || cast(floor({args.users} * random() * random()) as bigint) as user_id,
                'i' || cast(floor({args.items} * random() * random()) as bigint) as item_id,
                'click' as event,
                cast(floor(random() * 5) + 1 as float) as rating,
                timestamptz '2026-01-01 00:00:00+00' + to_microseconds(
                    cast(floor(random() * {args.days + 1} * 86400) as bigint) * 1000000) as event_timestamp
            from range({args.events})) to '{work}/interaction.parquet' (format parquet, compression zstd)"""
    )
    moment = pa.timestamp("us", tz="UTC")
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), args.width)
    for name, entities in (("item", args.items), ("user", args.users)):
        schema = pa.schema(
            [
                pa.field(f"{name}_id", pa.string(), nullable=False),
                pa.field("event_timestamp", moment, nullable=False),
                pa.field("created_timestamp", moment, nullable=False),
                pa.field("embedding", vector, nullable=False),
                pa.field("n_reasons", pa.int32(), nullable=False),
                pa.field("mean_score", pa.float32()),
                pa.field("missing", pa.bool_(), nullable=False),
            ]
        )
        for day in range(args.days):
            dt = (START + datetime.timedelta(days=day)).date().isoformat()
            at = START + datetime.timedelta(days=day + 1)
            ids = con.execute(
                f"select '{name[0]}' || i from range({entities}) t(i) where hash(i, {day}) % 10 < 8 order by 1"
            ).fetchall()
            n = len(ids)
            values = con.sql(f"select cast((random() - 0.5) / 10 as float) as v from range({n * args.width})")
            values = pa.concat_arrays(values.to_arrow_table().column("v").chunks)
            arrays = [
                pa.array([i for (i,) in ids]),
                pa.array([at] * n, moment),
                pa.array([at] * n, moment),
                pa.FixedSizeListArray.from_arrays(values, type=vector),
                pa.array([1] * n, pa.int32()),
                pa.array([0.5] * n, pa.float32()),
                pa.array([False] * n),
            ]
            folder = work / f"warehouse/{name}_feature/dt={dt}"
            folder.mkdir(parents=True)
            path = folder / "part-00000.parquet"
            pq.write_table(
                pa.Table.from_arrays(arrays, schema=schema),
                path,
                compression="zstd",
                row_group_size=40_000,
                use_compliant_nested_type=False,
                use_dictionary=[f"{name}_id"],
                column_encoding={"embedding.list.item": "BYTE_STREAM_SPLIT"},
            )
            digest = hashlib.sha256(path.read_bytes()).hexdigest()  # stands for blake3, which reading does not check
            record = {
                "format": 1,
                "table": f"{name}_feature",
                "contract_version": "1.0",
                "dt": dt,
                "files": [{"name": path.name, "rows": n, "bytes": path.stat().st_size, "blake3": digest}],
                "fingerprint": digest[:32],
                "parts": {},
                "created_timestamp": int(at.timestamp()) * 1_000_000,
                "run_id": "bench",
                "lease_epoch": 1,
            }
            (folder / "_commit.json").write_text(json.dumps(record), encoding="utf-8")
    models = ROOT / "tests/fixtures/models"
    (work / "job.toml").write_text(
        f"name = 'bench'\nwarehouse = '{work}/warehouse'\n"
        f"[input]\ninteraction = '{work}/interaction.parquet'\nitem = '{work}/none.parquet'\n"
        f"[model]\ngenerator = '{models}/tiny-qwen3'\nencoder = '{models}/tiny-bert'\n",
        encoding="utf-8",
    )


def run(command):
    """(seconds, CPU seconds, peak MiB, standard output) of a process."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command[0]} ended with {child.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out


def digest(paths, width):
    import duckdb

    return duckdb.connect().execute(DIGEST.format(width=width), [[str(p) for p in paths]]).fetchone()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("events", 1_000_000), ("items", 10_000), ("users", 20_000), ("days", 7), ("width", 384)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="DuckDB's; 0: as many as it wants")
    parser.add_argument("--sorted", action="store_true", help="DuckDB sorts its rows as curec does")
    parser.add_argument("--limit", type=float, default=1.5, help="the greatest ratio allowed")
    parser.add_argument("--work", type=Path, help="keeps the files here between calls")
    args = parser.parse_args()
    target = os.environ.get("CARGO_TARGET_DIR", os.path.expanduser("~/.cache/curec/target"))
    curec = os.environ.get("CUREC_BIN", f"{target}/ci/curec")
    work = (args.work or Path(tempfile.mkdtemp())).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        return measure(args, curec, work)
    finally:
        if args.work is None:
            shutil.rmtree(work)


def measure(args, curec, work):
    if not (work / "job.toml").exists():
        started = time.perf_counter()
        make(work, args)
        print(f"made {args.events} events and {args.days} days of features in {time.perf_counter() - started:.0f} s")
    order = "sorted" if args.sorted else "any"
    seconds = {"curec": [], "duckdb": []}
    print(f"{'round':<6}{'who':<8}{'seconds':>9}{'CPU s':>9}{'peak MiB':>10}{'MiB':>9}")
    same = True
    for number in range(1, args.rounds + 1):
        out = work / "training"
        shutil.rmtree(out, ignore_errors=True)
        wall, cpu, peak, _ = run([curec, "--quiet", "export", str(work / "job.toml"), "--out", str(out)])
        ours = sorted(out.glob("part-*.parquet"))
        seconds["curec"].append(wall)
        size = sum(p.stat().st_size for p in ours) / 2**20
        print(f"{number:<6}{'curec':<8}{wall:>9.2f}{cpu:>9.2f}{peak:>10.0f}{size:>9.0f}", flush=True)
        theirs = work / "duckdb.parquet"
        theirs.unlink(missing_ok=True)
        _, cpu, peak, told = run([sys.executable, "-c", DUCKDB, str(work), str(args.threads), order])
        seconds["duckdb"].append(float(told.split()[-1]))
        size = theirs.stat().st_size / 2**20
        print(f"{number:<6}{'duckdb':<8}{seconds['duckdb'][-1]:>9.2f}{cpu:>9.2f}{peak:>10.0f}{size:>9.0f}", flush=True)
        if same:
            a, b = digest(ours, args.width), digest([theirs], args.width)
            same = a == b
            print(f"rows {a[0]}: {'the same' if same else f'DIFFERENT, {a} and {b}'}", flush=True)
    a, b = (statistics.median(seconds[who]) for who in ("curec", "duckdb"))
    print(f"median: curec {a:.2f} s, DuckDB {b:.2f} s; ratio {a / b:.2f} (limit {args.limit})")
    return 0 if same and a / b <= args.limit else 1


if __name__ == "__main__":
    sys.exit(main())
