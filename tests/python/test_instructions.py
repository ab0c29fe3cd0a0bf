"""The guard of ci/instructions.sh: what of callgrind's output counts, which counts are refused, and that the workloads are those of
the kernels. The counting itself needs Valgrind and is a step of ci/test.sh."""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CRATE = ROOT / "benches/instructions"

# As Valgrind 3.19 writes it: 2 + 40 + 7 + 3 instructions of the program's own, 500 of the C library.
CALLGRIND = """# callgrind format
version: 1
cmd:  /somewhere/instructions softmax
part: 1

positions: line
events: Ir
summary: 552


ob=/lib/ld-linux-x86-64.so.2
fl=???
fn=0x000000000001ab70
cob=/somewhere/instructions
cfi=???
cfn=(below main)
calls=1 0
0 552

ob=/somewhere/instructions
fl=???
fn=curec_counted
0 2
cfn=kernel
calls=1 0
0 550

fn=kernel
0 40
cob=/lib/libc.so.6
cfi=???
cfn=memcpy
calls=5 0
0 500
0 7

ob=/lib/libc.so.6
fl=???
fn=memcpy
0 500

ob=/somewhere/instructions
fl=???
fn=kernel'2
0 3

totals: 552
"""


def load():
    spec = importlib.util.spec_from_file_location("instructions", ROOT / "ci/instructions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GUARD = load()


def callgrind(count):
    return f"ob=/somewhere/instructions\nfl=???\nfn=curec_counted\n0 {count}\n"


def guard(recorded, counted, *options):
    """Runs the comparison on counts as {workload: instructions}; returns (exit code, output, table afterwards)."""
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "counts.tsv", Path(folder) / "out"
        out.mkdir()
        lines = [GUARD.HEADER, *(f"{name}\t{count}" for name, count in recorded.items())]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, count in counted.items():
            (out / f"{name}.out").write_text(callgrind(count), encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            code = GUARD.main([*options, str(table), str(out)])
        return code, output.getvalue(), GUARD.read_counts(table.read_text(encoding="utf-8"))


class Counting(unittest.TestCase):
    def test_the_programs_own_instructions_count_once(self):
        self.assertEqual(GUARD.own_instructions(CALLGRIND), 52)

    def test_a_tenth_is_the_limit_both_ways(self):
        for counted, code in [(1100, 0), (1101, 1), (900, 0), (899, 1), (1120, 1)]:
            with self.subTest(counted=counted):
                self.assertEqual(guard({"a": 1000, "b": 7}, {"a": counted, "b": 7})[0], code)

    def test_what_is_off_is_named_with_what_to_do(self):
        _, output, _ = guard({"rose": 1000, "fell": 1000, "same": 5}, {"rose": 1120, "fell": 800, "same": 5})
        self.assertIn("rose: 1,120 instructions, 12.0 % more than the 1,000 that are recorded", output)
        self.assertIn("fell: 800 instructions, 20.0 % fewer than the 1,000 that are recorded", output)
        self.assertEqual(output.count("ci/instructions.sh --record"), 2)
        self.assertIn("3 workloads, 2 off", output)

    def test_a_workload_may_not_come_or_go_unseen(self):
        self.assertEqual(guard({"a": 5, "gone": 5}, {"a": 5})[0], 1)
        self.assertEqual(guard({"a": 5}, {"a": 5, "new": 5})[0], 1)
        self.assertEqual(guard({"a": 5, "not run": 5}, {"a": 5}, "--some")[0], 0)

    def test_nothing_counted_is_never_right(self):
        code, output, table = guard({"a": 5}, {"a": 0})
        self.assertEqual((code, table), (1, {"a": 5}))
        self.assertIn("a: nothing was counted", output)
        code, _, table = guard({"a": 5}, {"a": 0}, "--record")
        self.assertEqual((code, table), (1, {"a": 5}))

    def test_recording_replaces_the_table(self):
        code, _, table = guard({"a": 5, "gone": 5}, {"new": 7, "a": 50}, "--record")
        self.assertEqual((code, table), (0, {"a": 50, "new": 7}))

    def test_another_table_is_refused(self):
        with self.assertRaises(SystemExit):
            GUARD.read_counts("softmax\t5\n")


class Workloads(unittest.TestCase):
    def test_every_workload_is_recorded(self):
        sources = [path.read_text(encoding="utf-8") for path in (CRATE / "src").glob("*.rs")]
        names = [name for source in sources for name in re.findall(r'^    \("([a-z0-9-]+)", ', source, flags=re.MULTILINE)]
        self.assertEqual(sorted(names), list(GUARD.read_counts((CRATE / "counts.tsv").read_text(encoding="utf-8"))))

    def test_all_files_of_the_kernels_are_compiled(self):
        def modules(path):
            block = re.search(r"\bmod kernels \{(.*?)\}", path.read_text(encoding="utf-8"), flags=re.DOTALL).group(1)
            return re.findall(r"pub mod (\w+);", block)

        self.assertEqual(modules(CRATE / "src/main.rs"), modules(ROOT / "src/lib.rs"))

    def test_dependencies_are_those_of_the_product(self):
        def packages(path):
            locked = r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"'
            return set(re.findall(locked, path.read_text(encoding="utf-8")))

        own = packages(CRATE / "Cargo.lock")
        self.assertIn("rayon", {name for name, _, _ in own})
        self.assertEqual(own - packages(ROOT / "Cargo.lock"), set())

    def test_without_valgrind_a_reason_is_given(self):
        with tempfile.TemporaryDirectory() as folder:
            for tool in ("bash", "dirname"):
                (Path(folder) / tool).symlink_to(shutil.which(tool))
            command = ["bash", ROOT / "ci/instructions.sh", "--install"]
            run = subprocess.run(command, env={**os.environ, "PATH": folder}, capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout.strip()), (1, "no Valgrind (Debian: apt-get install valgrind)"))


if __name__ == "__main__":
    unittest.main()
