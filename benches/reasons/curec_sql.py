"""SQL functions of a curec binary over texts: their vectors, their likelihoods.

Knows the binary and the keys of a job; knows nothing of what the texts are.
"""

import subprocess
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def over_texts(binary, model, texts, columns, settings=""):
    """One row a text, in their order: `columns` is SQL over `title`, which holds the text. `model` is generator and encoder: a
    job names both, and only the one that a function needs is loaded. `settings` are further keys of `[model]`."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        rows = [{"item_id": str(n), "title": text or "-"} for n, text in enumerate(texts)]
        schema = pa.schema([pa.field("item_id", pa.string(), nullable=False), ("title", pa.string())])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "item.parquet")
        (folder / "job.toml").write_text(
            f'name = "texts"\nwarehouse = "{folder}/warehouse"\n[input]\nitem = "{folder}/item.parquet"\n'
            f'interaction = "{folder}/item.parquet"\n'
            f'[model]\ngenerator = "{model}"\nencoder = "{model}"\ndevice = "cpu"\n{settings}'
        )
        to = folder / "out.parquet"
        query = f"select item_id, {columns} from item"
        command = [binary, "sql", "--job", folder / "job.toml", "--format", "parquet", "--output", to, query]
        subprocess.run([str(c) for c in command], check=True)
        found = {int(row["item_id"]): row for row in pq.read_table(to).to_pylist()}
    return [found[n] for n in range(len(texts))]
