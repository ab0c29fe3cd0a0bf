"""Feeds what `curec export` wrote to a ranker: dense batches from Parquet, and a PyTorch data set over them.

    curec export jobs/nightly.toml --out training
    python jobs/loaders/ranker_loader.py training

    from torch.utils.data import DataLoader
    from ranker_loader import RankerDataset, vocabulary

    items, users = vocabulary("training", "item_id"), vocabulary("training", "user_id")
    data = RankerDataset("training", batch_rows=1024, shuffle=True, vocabularies={"item_id": items, "user_id": users})
    for epoch in range(3):
        data.set_epoch(epoch)
        for batch in DataLoader(data, batch_size=None, num_workers=2):
            x = batch["item_embedding"]               # float32 [rows, width]; zeros where batch["item_missing"]
            age = batch["event_timestamp"] - batch["item_event_timestamp"]   # microseconds; the latter is -1 where
            ...                                                              # there was no feature row yet

Needs pyarrow; PyTorch only for `RankerDataset`, NumPy not at all (`numpy.asarray` takes the memoryviews as they are).
Copy it and change it: it is an example, and short.

Only files that `_export.json` lists are read, so half an export is an error and not a smaller one. The unit of work is a
row group (some 20,000 rows with two 384-wide vectors): workers share them out, shuffling permutes them and then the
rows inside each. Rows are sorted by time, so without shuffling the batches come in the order of events (for progressive
evaluation), as long as there is one worker. A batch never crosses row groups, so the last of each may be shorter.

Values: vectors are float32 [rows, width], numbers their own type with NaN for null (a rating that was not given),
moments int64 microseconds since 1970 UTC with -1 for null, booleans uint8 (torch: bool), text a list of str, or int64
by `vocabularies` with 0 for what the vocabulary does not hold; lists of text (`item_words`) a list of lists of either, empty for null,
which is what torch.nn.EmbeddingBag wants once they are laid end to end. A vector that may be null (`item_collaborative`,
`user_collaborative`) is zeros where it is, and beside it stands a column of booleans: `item_collaborative_missing`.
"""

import json
import posixpath
import random
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError:
    torch, IterableDataset, get_worker_info = None, object, lambda: None

RECORD = "_export.json"
# Arrow's types of fixed width -> struct's letters, as memoryview takes them.
LETTERS = {pa.float32(): "f", pa.float64(): "d", pa.int32(): "i", pa.int64(): "q", pa.uint8(): "B"}


def files(folder):
    """(filesystem, paths) of an export, in row order. `folder` is a path or an URL such as s3://bucket/training."""
    # A relative path is no URL.
    where = (pyarrow.fs.LocalFileSystem(), str(folder)) if "://" not in str(folder) else pyarrow.fs.FileSystem.from_uri(folder)
    system, root = where
    with system.open_input_file(posixpath.join(root, RECORD)) as record:
        listed = json.loads(record.read())["files"]
    return system, [posixpath.join(root, file["name"]) for file in listed]


def vocabulary(folder, column):
    """{text: index} of a text column, from 1, in the order of the text; 0 is for what is not in it."""
    system, paths = files(folder)
    found = set()
    for path in paths:
        with system.open_input_file(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=[column]):
                texts = batch.column(0)
                if pa.types.is_list(texts.type):
                    texts = texts.flatten()
                found.update(pc.unique(texts).to_pylist())
    found.discard(None)
    return {text: i + 1 for i, text in enumerate(sorted(found))}


def dense(array, known=None):
    """A column as a writable memoryview of its values, [rows] or [rows, width]; text as a list of str or of lists of str."""
    kind, shape, there = array.type, [len(array)], None
    if pa.types.is_fixed_size_list(kind):
        if array.null_count > 0:
            there = array.is_valid().to_pylist()
        # Of vectors that are null it has nothing.
        array, shape = array.flatten(), [len(array), kind.list_size]
    elif pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        lists = [texts or [] for texts in array.to_pylist()]
        return lists if known is None else [[known.get(text, 0) for text in texts] for texts in lists]
    elif pa.types.is_string(kind):
        texts = array.to_pylist()
        if known is None:
            return texts
        array = pa.array([known.get(text, 0) for text in texts], pa.int64())
    elif pa.types.is_timestamp(kind):
        array = pc.fill_null(array.cast(pa.int64()), -1)
    elif pa.types.is_boolean(kind):
        array = pc.fill_null(array, True).cast(pa.uint8())
    elif pa.types.is_floating(kind):
        array = pc.fill_null(array, float("nan"))
    elif pa.types.is_integer(kind):
        array = pc.fill_null(array, 0)
    letter = LETTERS.get(array.type)
    if letter is None:
        raise TypeError(f"no dense form for {array.type}")
    size = array.type.bit_width // 8
    start = array.offset * size
    values = memoryview(array.buffers()[1] or b"")[start:start + len(array) * size]
    values = bytearray(values) if there is None else spread(values, there, shape[1] * size)
    return memoryview(values).cast(letter, shape)


def spread(values, there, size):
    """Vectors of `size` bytes in their rows, with zeros where none is there."""
    out, start = bytearray(len(there) * size), 0
    for row in (row for row, is_there in enumerate(there) if is_there):
        out[row * size:(row + 1) * size] = values[start:start + size]
        start += size
    return out


def batches(folder, batch_rows=1024, columns=None, shuffle=False, seed=0, shard=(0, 1), vocabularies=None):
    """Yields {column: dense values} of at most `batch_rows` rows.

    `shard` is (which, of how many): the shards together hold every row once. With `shuffle` the order depends on
    `seed` alone.
    """
    known = vocabularies or {}
    system, paths = files(folder)
    groups = []
    for path in paths:
        with system.open_input_file(path) as file:
            groups += [(path, i) for i in range(pq.ParquetFile(file).metadata.num_row_groups)]
    if shuffle:
        random.Random(f"{seed}").shuffle(groups)
    for path, i in groups[shard[0]::shard[1]]:
        with system.open_input_file(path) as file:
            table = pq.ParquetFile(file).read_row_group(i, columns=columns)
        if shuffle:
            order = list(range(len(table)))
            random.Random(f"{seed}/{posixpath.basename(path)}/{i}").shuffle(order)
            table = table.take(pa.array(order, pa.int64()))
        for start in range(0, len(table), batch_rows):
            part = table.slice(start, batch_rows).combine_chunks()
            batch = {}
            for field in part.schema:
                column = joined(part.column(field.name))
                batch[field.name] = dense(column, known.get(field.name))
                # For every batch, whether it has nulls or not: all have the same columns.
                if field.nullable and pa.types.is_fixed_size_list(field.type):
                    batch[f"{field.name}_missing"] = dense(column.is_null())
            yield batch


def joined(column):
    """A chunked column in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def tensor(values):
    """A torch tensor over the same memory; text stays a list."""
    if isinstance(values, list):
        return values
    kinds = {"f": torch.float32, "d": torch.float64, "i": torch.int32, "q": torch.int64, "B": torch.uint8}
    made = torch.frombuffer(values.obj, dtype=kinds[values.format]).reshape(values.shape)
    return made.bool() if values.format == "B" else made


class RankerDataset(IterableDataset):
    """An export as a torch data set of whole batches: use `DataLoader(data, batch_size=None)`."""

    def __init__(self, folder, **options):
        if torch is None:
            raise ImportError("RankerDataset needs PyTorch; batches() does not")
        super().__init__()
        self.folder, self.options, self.epoch = folder, options, 0

    def set_epoch(self, epoch):
        """Shuffles otherwise from now on; call it before each pass."""
        self.epoch = epoch

    def __iter__(self):
        worker = get_worker_info()
        shard = (0, 1) if worker is None else (worker.id, worker.num_workers)
        options = {**self.options, "seed": f"{self.options.get('seed', 0)}-{self.epoch}", "shard": shard}
        for batch in batches(self.folder, **options):
            yield {name: tensor(values) for name, values in batch.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows, first = 0, None
    for each in batches(sys.argv[1]):
        first = first or each
        rows += len(each["user_id"])
    print(f"{rows} rows")
    for name, values in (first or {}).items():
        print(f"  {name}: {'text' if isinstance(values, list) else f'{values.format} {list(values.shape)}'}")
