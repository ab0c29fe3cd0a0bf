"""Replicates MovieLens-100k with offset ids: N copies are N times as many users, items and events.

    python replicate.py FOLDER_WITH_INTERACTIONS_AND_ITEMS OUT COPIES

Writes OUT/interaction/dt=YYYY-MM-DD/part-0.parquet and OUT/item.parquet. Ids become (1000 + copy) * 10000 + id, so that
ids of one copy sort alike in every copy; copy k happens 7k milliseconds later. Needs pyarrow, nothing else.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def moved(ids: pa.Array, copy: int) -> pa.Array:
    return pc.cast(pc.add(pc.cast(ids, pa.int64()), (1000 + copy) * 10_000), pa.string())


def copied(table: pa.Table, copy: int) -> pa.Table:
    for name in ("user_id", "item_id"):
        if name in table.column_names:
            place = table.column_names.index(name)
            table = table.set_column(place, name, moved(table[name], copy))
    if "timestamp" in table.column_names:
        place, times = table.column_names.index("timestamp"), table["timestamp"]
        later = pc.cast(pc.add(pc.cast(times, pa.int64()), 7 * copy), times.type)
        table = table.set_column(place, "timestamp", later)
    return table


def main() -> None:
    source, out, copies = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    events = pq.read_table(source / "interactions.parquet").sort_by("timestamp").combine_chunks()
    items = pq.read_table(source / "items.parquet").combine_chunks()
    days = pc.strftime(events["timestamp"], "%Y-%m-%d")
    for day in sorted(pc.unique(days).to_pylist()):
        of_day = events.filter(pc.equal(days, day))
        folder = out / "interaction" / f"dt={day}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([copied(of_day, k) for k in range(copies)]), folder / "part-0.parquet")
    pq.write_table(pa.concat_tables([copied(items, k) for k in range(copies)]), out / "item.parquet")
    print(f"{len(events) * copies} events, {len(items) * copies} items in {out}")


if __name__ == "__main__":
    main()
