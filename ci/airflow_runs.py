"""Runs jobs/nightly_dag.py and jobs/nightly_pod_dag.py in Airflow, with a real curec; ci/airflow.sh calls it.

    python ci/airflow_runs.py SCRATCH CUREC

Two nights and a rerun of each: the rerun is skipped, and not one byte below the warehouse changes. Then the same job as a pod
(ci/airflow_pods.py), and exit codes that a stub returns. Tasks run as `airflow dags test` runs them: intervals, templates,
retries, states and XCom are Airflow's own, in its own database below SCRATCH.
"""

import datetime
import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "tests/fixtures/models"

JOB = """name = "nightly"
warehouse = "{root}/warehouse"
[input]
interaction = "{root}/input/interaction.parquet"
item = "{root}/input/item.parquet"
[history]
user_active_days = 0
items = "active"
item_active_days = 0
min_support = 2
[model]
generator = "{root}/writer"
encoder = "{models}/tiny-bert"
device = "cpu"
slots = 4
max_step_tokens = 256
max_positions = 256
[prompt]
item = "{root}/job/item.j2"
history = "{root}/job/history.j2"
[evidence]
tokens = 240
[sampling]
max_new_tokens = 6
[check]
language = "none"
min_grounding = 0.0
max_repetition = 1.0
min_words = 1
min_mean_logprob = -1000.0
require_finished = false
"""
ITEM = "=== user\n{{ subject or attributes | join }}\n=== assistant\n{{ liked[:1] | join }}\n"
HISTORY = "=== user\n{{ (liked + attributes)[:2] | join(', ') }}\n=== assistant\nThe user\n"

STUB = """#!/bin/sh
for word in "$@"; do
    [ "$before" = --summary ] && echo '{"status":"stub"}' >"$word"
    before=$word
done
echo progress >&2
echo '{"status":"stub"}'
code=$(head -n 1 "$STUB_CODES")
sed -i 1d "$STUB_CODES"
exit "$code"
"""


def ascii_model(folder):
    """tiny-qwen3 as a model that writes ASCII: the output rows of all other tokens are zero. A random model writes bytes
    that are no text, which is an error of its own."""
    shutil.copytree(MODELS / "tiny-qwen3", folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    plain = {n for token, n in vocabulary.items()
             if not token.startswith("<|") and all(c == "\u0120" or "!" <= c <= "~" for c in token)}
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:begin])["lm_head.weight"]
    start, end = (begin + at for at in head["data_offsets"])
    width = (end - start) // head["shape"][0]
    for row in set(range(head["shape"][0])) - plain:
        data[start + row * width:start + (row + 1) * width] = bytes(width)
    path.write_bytes(data)


def write_job(root, curec):
    """A job with a log of January 2026 and tiny models, in the folder that the DAGs name."""
    (root / "job/jobs").mkdir(parents=True)
    lines, epoch = {}, 1_767_225_600
    for user in range(24):
        for n in range(12):
            item = (user * 5 + n * 7) % 18
            at = epoch + (n * 19 + user) % 22 * 86400 + (user + n) % 24 * 3600 + user * 60 + n
            lines[user, item, at] = f"u{user:02},i{item:02},{5 if (item + user) % 2 == 0 else 2},{at}\n"
    (root / "log.csv").write_text("user_id,item_id,rating,event_timestamp\n" + "".join(lines.values()), encoding="utf-8")
    items = (f"i{i:02},Film Number {i} (19{70 + i}),{'Comedy' if i % 2 else 'Crime'}\n" for i in range(18))
    (root / "items.csv").write_text("item_id,title,categories\n" + "".join(items), encoding="utf-8")
    subprocess.run([curec, "import", "csv", root / "log.csv", "--items", root / "items.csv", "--out", root / "input"],
                   check=True, stdout=subprocess.DEVNULL)
    ascii_model(root / "writer")
    (root / "job/jobs/nightly.toml").write_text(JOB.format(root=root, models=MODELS), encoding="utf-8")
    (root / "job/item.j2").write_text(ITEM, encoding="utf-8")
    (root / "job/history.j2").write_text(HISTORY, encoding="utf-8")


def digests(folder):
    """Every file below a folder with its digest."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def load(name, dags):
    """The DAG of a file, once Airflow has read the folder into its database."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(dags))
    assert not bag.import_errors, bag.import_errors
    dag = bag.dags[name]
    # Only the wait is another one: a quarter of an hour is too long for a test.
    for task in dag.tasks:
        task.retry_delay = datetime.timedelta(seconds=0)
    return dag


def night(dag, day):
    """Runs the DAG for a day of January; returns state, tries and XCom of its task."""
    after = datetime.datetime(2026, 1, day + 1, 2, 30, tzinfo=datetime.timezone.utc)
    run = dag.test(logical_date=after)
    [task] = run.get_task_instances()
    pushed = task.xcom_pull(task_ids=task.task_id, run_id=run.run_id)
    return str(task.state), task.try_number, pushed


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"airflow: {what}: expected {wanted!r}, got {got!r}")
    print(f"airflow: {what}: {got!r}", file=sys.stderr)


def published(what, got, day):
    state, tries, summary = got
    expect(what, (state, tries, summary["status"]), ("success", 1, "published"))
    bounds = summary["interval_start"][:10], summary["interval_end"][:10]
    expect(f"{what}, its interval", bounds, (f"2026-01-{day}", f"2026-01-{day + 1}"))


def main():
    scratch, curec = Path(sys.argv[1]), Path(sys.argv[2])
    write_job(scratch, curec)
    warehouse, programs, codes = scratch / "warehouse", scratch / "bin", scratch / "codes"
    programs.mkdir()
    (programs / "curec").symlink_to(curec)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    os.environ["STUB_CODES"] = str(codes)

    bash, pod = (load(name, scratch / "dags") for name in ("curec_nightly", "curec_nightly_pod"))
    from airflow_pods import run_pods_here

    cluster = run_pods_here(scratch / "pods")

    published("the first night", night(bash, 20), 20)
    published("the second night", night(bash, 21), 21)
    before = digests(warehouse)
    assert any(name.startswith("item_feature/dt=2026-01-20/") and name.endswith(".parquet") for name in before), before
    for day in (20, 21):
        expect(f"a rerun of 2026-01-{day}", night(bash, day)[0], "skipped")
        expect(f"a rerun of 2026-01-{day} as a pod", night(pod, day)[0], "skipped")
    expect("files that the reruns changed", [n for n, d in digests(warehouse).items() if before.get(n) != d], [])
    expect("files that the reruns removed", sorted(set(before) - set(digests(warehouse))), [])
    published("the third night, as a pod", night(pod, 22), 22)
    expect("pods that are left", sorted(cluster.pods), [])
    (scratch / "pod.json").write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", **cluster.specs[0]}), encoding="utf-8")

    (programs / "curec").unlink()
    (programs / "curec").write_text(STUB, encoding="utf-8")
    (programs / "curec").chmod(stat.S_IRWXU)
    for dag in (bash, pod):
        for answers, wanted in (
            ([75, 137, 0], ("success", 3)),
            ([75, 99], ("skipped", 2)),
            ([1], ("failed", 1)),
            ([2], ("failed", 1)),
            ([101], ("failed", 1)),
        ):
            codes.write_text("".join(f"{code}\n" for code in answers), encoding="utf-8")
            state, tries, _ = night(dag, 23)
            expect(f"{dag.dag_id}, exit codes {answers}", (state, tries, codes.read_text()), (*wanted, ""))
    print("airflow: all as expected", file=sys.stderr)


if __name__ == "__main__":
    main()
