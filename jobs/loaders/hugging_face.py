"""Published tables as data sets of Hugging Face's `datasets`, from the disk or a bucket, without a copy where they are streamed.

    python jobs/loaders/hugging_face.py .curec/warehouse reason     # the columns, how many rows, and the first one

    from hugging_face import table

    reasons = table(".curec/warehouse", "reason")                          # whole: a copy in Arrow in the cache of `datasets`
    features = table(".curec/warehouse", "item_feature", streaming=True)   # row by row, as they are read
    features.with_format("torch")                                          # vectors as tensors

Vectors keep their width (`List(Value('float32'), length=384)`), moments are in UTC. The partition date stands in the path and is no
column; `days` picks some of them. What is read are the files that lie there: read while no run is publishing.

Needs datasets. Copy it and change it: it is an example, and short.
"""

import sys

from datasets import load_dataset


def table(warehouse, name, days="*", streaming=False):
    """A published table. `days` is a date or a pattern of dates, such as "2026-11-01" or "2026-11-*"."""
    files = f"{warehouse.rstrip('/')}/{name}/dt={days}/part-*.parquet"
    return load_dataset("parquet", data_files=files, split="train", streaming=streaming)


def main():
    rows = table(*sys.argv[1:])
    for name, kind in rows.features.items():
        print(f"{name}: {kind}")
    print(f"{len(rows)} rows; the first one: {rows[0]}")


if __name__ == "__main__":
    main()
