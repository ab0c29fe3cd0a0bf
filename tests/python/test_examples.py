"""The examples in examples/: the commands of each README, run as they stand there.

    CUREC_BIN=<the binary> python tests/python/test_examples.py

Each example is copied to a folder of its own; the blocks that a README marks as `sh` run there in bash, one after the other, with
the binary on the PATH. Settings of the environment put the tiny models of tests/fixtures in the place of the quick start's, unless
CUREC_EXAMPLES_HOME names a folder that ci/fetch.sh has filled: then nothing but the binary differs from what a user runs.
tests/cli/examples.rs sets CUREC_BIN; without it only what needs no binary is looked at.

A block that begins with `# needs: NAMES` runs with the first Python that has these packages: this one, or that of ci/readers.sh,
which has Feast. Where none has them it is left out, aloud.
"""

import ast
import csv
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NAMES = ["custom-table", "feast", "notebook", "own-csv", "ranker"]
LONGEST_README = 40
BINARY = os.environ.get("CUREC_BIN", "")
HOME = os.environ.get("CUREC_EXAMPLES_HOME", "")

PYTHONS = [Path(sys.executable), Path.home() / ".cache/curec/readers-venv/bin/python"]

sys.path.insert(0, str(ROOT / "ci"))
from airflow_runs import HISTORY, ITEM, MODELS, ascii_model  # noqa: E402

# A tiny model knows nearly one token a letter, has 256 positions and writes what no check would accept.
TINY = {
    "MODEL__ENCODER": f"{MODELS}/tiny-bert",
    "MODEL__ADAPTER": "",
    "MODEL__SLOTS": "4",
    "MODEL__MAX_STEP_TOKENS": "256",
    "MODEL__MAX_POSITIONS": "256",
    "EVIDENCE__TOKENS": "240",
    "SAMPLING__MAX_NEW_TOKENS": "6",
    "SAMPLING__MAX_COPIED_WORDS": "0",
    "SAMPLING__ATTEMPTS": "1",
    "CHECK__LANGUAGE": "none",
    "CHECK__MIN_GROUNDING": "0",
    "CHECK__MAX_REPETITION": "1",
    "CHECK__MIN_WORDS": "1",
    "CHECK__MIN_CONCRETE": "0",
    "CHECK__MIN_MEAN_LOGPROB": "-1000",
    "CHECK__REQUIRE_FINISHED": "false",
}

INSTALL_DELTA = """
import duckdb, duckdb_extension_delta, pathlib
folder = pathlib.Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
duckdb.connect().execute(f"install '{folder}/delta.duckdb_extension'")
"""


def is_installed(name):
    return importlib.util.find_spec(name) is not None


def blocks(text):
    """The commands of a README: the content of its blocks that are marked as sh."""
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def needs(block):
    """The packages that a block says it needs."""
    found = re.match(r"# needs: (.*)\n", block)
    return found.group(1).split() if found else []


def python_with(names):
    """The first of PYTHONS that has these packages; None: none has all of them."""
    program = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
    return next((p for p in PYTHONS if p.exists() and subprocess.run([p, "-c", program, *names]).returncode == 0), None)


class Texts(unittest.TestCase):
    def test_every_example_has_a_short_readme_with_commands(self):
        self.assertEqual(sorted(p.parent.name for p in EXAMPLES.glob("*/README.md")), NAMES)
        index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
        for name in NAMES:
            text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
            with self.subTest(name):
                self.assertLessEqual(len(text.splitlines()), LONGEST_README)
                self.assertGreater(len(blocks(text)), 1)
                self.assertIn(f"]({name}/README.md)", index)

    def test_the_shop_is_what_its_script_makes(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, EXAMPLES / "shop/make.py", folder], check=True)
            for name in ("products.csv", "events.csv"):
                self.assertEqual((EXAMPLES / "shop" / name).read_bytes(), Path(folder, name).read_bytes(), name)

    def test_the_shop_has_what_the_examples_say_of_it(self):
        with (EXAMPLES / "shop/events.csv").open(encoding="utf-8", newline="") as file:
            events = list(csv.DictReader(file))
        self.assertEqual({event["action"] for event in events}, {"purchase", "return", "view"})
        self.assertEqual((events[0]["ts"][:10], events[-1]["ts"][:10]), ("2026-03-01", "2026-03-14"))

    def test_the_notebook_is_one_without_outputs(self):
        notebook = json.loads((EXAMPLES / "notebook/reasons.ipynb").read_text(encoding="utf-8"))
        self.assertEqual((notebook["nbformat"], notebook["nbformat_minor"]), (4, 5))
        self.assertEqual(len({cell["id"] for cell in notebook["cells"]}), len(notebook["cells"]))
        for cell in notebook["cells"]:
            self.assertIn(cell["cell_type"], ("code", "markdown"))
            if cell["cell_type"] == "code":
                self.assertEqual((cell["outputs"], cell["execution_count"]), ([], None))
                ast.parse("".join(cell["source"]))

    def test_blocks_and_their_needs_are_found(self):
        text = "a\n```sh\n# needs: json no_such_package\nx \\\n  y\n```\n```\nnot this\n```\n```sh\nz\n```\n"
        self.assertEqual(blocks(text), ["# needs: json no_such_package\nx \\\n  y\n", "z\n"])
        self.assertEqual([needs(block) for block in blocks(text)], [["json", "no_such_package"], []])
        self.assertEqual(python_with(["json", "ast"]), Path(sys.executable))
        self.assertIsNone(python_with(["json", "no_such_package"]))


@unittest.skipUnless(BINARY, "CUREC_BIN is not set; tests/cli/examples.rs runs the examples")
class Runs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        kept = tempfile.TemporaryDirectory()
        cls.addClassCleanup(kept.cleanup)
        cls.root = Path(kept.name)
        (cls.root / "bin").mkdir()
        (cls.root / "bin/curec").symlink_to(Path(BINARY).resolve())
        # What the examples find in the clone.
        for name in ("jobs", "models"):
            (cls.root / name).symlink_to(ROOT / name)
        cls.environment = {name: value for name, value in os.environ.items() if not name.startswith("CUREC_")}
        # DuckDB keeps extensions below HOME.
        cls.environment.update(PYTHONDONTWRITEBYTECODE="1", FEAST_USAGE="False", HOME=kept.name)
        if HOME:
            cls.environment["CUREC_HOME"] = str(Path(HOME).resolve())
            return
        ascii_model(cls.root / "writer")
        templates = {"item": ITEM, "history": HISTORY}
        for name, text in templates.items():
            (cls.root / f"{name}.j2").write_text(text, encoding="utf-8")
        own = {f"PROMPT__{name.upper()}": str(cls.root / f"{name}.j2") for name in templates}
        for key, value in {**TINY, **own, "MODEL__GENERATOR": str(cls.root / "writer")}.items():
            cls.environment[f"CUREC_{key}"] = value

    def bash(self, script, folder, python=PYTHONS[0]):
        """Runs a script in a folder of the copied examples; returns what it printed."""
        path = os.pathsep.join([str(self.root / "bin"), str(python.parent), os.environ["PATH"]])
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**self.environment, "PATH": path},
            capture_output=True,
            text=True,
        )
        self.assertEqual(run.returncode, 0, f"{script}\n{run.stdout}\n{run.stderr}")
        return run.stdout

    def example(self, name):
        """Runs an example as its README says; returns its folder, what each block printed (None: left out), and what the blocks need
        that were left out."""
        examples = self.root / "examples"
        for each in ("shop", name):
            shutil.copytree(EXAMPLES / each, examples / each, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out"))
        folder, printed, lacking = examples / name, [], []
        for block in blocks((folder / "README.md").read_text(encoding="utf-8")):
            python = python_with(needs(block))
            if python is not None and "duckdb_extension_delta" in needs(block):
                # DuckDB would fetch it.
                self.bash(f"python3 -c {shlex.quote(INSTALL_DELTA)}", folder, python)
            # A notebook is not opened: its cells are run below.
            is_left_out = python is None or "jupyter" in block
            printed.append(None if is_left_out else self.bash(block, folder, python))
            lacking += [name for name in needs(block) if is_left_out and name not in lacking]
        return folder, printed, lacking

    def rows(self, folder, job, query):
        """Rows of a query as JSON objects."""
        script = f"curec sql --job {shlex.quote(job)} --format json {shlex.quote(query)}"
        return [json.loads(line) for line in self.bash(script, folder).splitlines()]

    def test_own_csv(self):
        folder, printed, _ = self.example("own-csv")
        # The README's import is the one that `curec init` proposes, but for the folders and the order.
        proposed = [line for line in printed[0].splitlines() if line.strip().startswith("curec import csv")]
        written = [line for line in blocks((folder / "README.md").read_text(encoding="utf-8"))[1].replace("\\\n", " ").splitlines()
                   if line.startswith("curec import csv")]
        self.assertEqual([imported(line) for line in written], [imported(line) for line in proposed])
        for part in ("purchase", "return", "2026-03-14"):
            self.assertIn(part, printed[0])
        night = json.loads(printed[1].splitlines()[-1])
        self.assertEqual(night["status"], "published")
        self.assertGreater(night["generated"], 0)
        if HOME:
            # With the model that people have the cap is what ends it.
            self.assertGreater(night["unpaid"], 0)
            self.assertLess(night["seconds"], 60)
        # The product that the README explains is among those with the most customers, which are asked about first.
        [asked] = self.rows(folder, "out/shop/job.toml", "select count(*) as n from reason where item_id = 'T-103' and error is null")
        self.assertEqual(asked["n"], 1)
        # Without the cap the rest is paid for, and then there is nothing to do.
        again = blocks((folder / "README.md").read_text(encoding="utf-8"))[1].splitlines()[-1].partition(" --set budget")[0]
        rest, nothing = (json.loads(self.bash(again, folder).splitlines()[-1]) for _ in range(2))
        self.assertEqual((rest["unpaid"], nothing["status"], nothing["generated"]), (0, "nothing_to_do", 0))
        items = self.rows(folder, "out/shop/job.toml", "select item_id, missing from item_feature order by item_id")
        self.assertEqual(len(items), 20)
        self.assertFalse(any(item["missing"] for item in items))
        # A view is no like, and what was sent back is a dislike.
        [told] = self.rows(folder, "out/shop/job.toml", "select sum(n_likes) as likes, sum(n_dislikes) as dislikes from item_audience")
        self.assertEqual((told["likes"], told["dislikes"]), opinions())

    def test_custom_table(self):
        folder, printed, _ = self.example("custom-table")
        self.assertTrue(list(folder.glob("out/warehouse/user_category/dt=2026-03-14/part-*.parquet")))
        rows = self.rows(folder, "job.toml", "select user_id, category, n_likes, share from user_category order by user_id, category")
        totals = {}
        for row in rows:
            totals[row["user_id"]] = totals.get(row["user_id"], 0) + row["share"]
        self.assertTrue(totals)
        self.assertTrue(all(abs(total - 1) < 1e-9 for total in totals.values()), totals)
        known = {row["user_id"] for row in self.rows(folder, "job.toml", "select user_id from user_feature")}
        self.assertLessEqual(set(totals), known)
        self.assertTrue(all(user in printed[1] for user in totals), printed[1])
        # The other definition: this table alone is built again.
        self.assertIn("sql changed", printed[2])
        plan = "curec plan job.toml --interval-start 2026-03-14 --interval-end 2026-03-15 --json --set project.sql="
        planned = {path: json.loads(self.bash(plan + path, folder)) for path in ("sql", "out/sql")}
        why = {path: {t["table"]: t["why"] for t in found["tables"] if t["why"]} for path, found in planned.items()}
        self.assertEqual(why, {"sql": {}, "out/sql": {"user_category": ["sql changed"]}})

    def test_ranker(self):
        folder, printed, lacking = self.example("ranker")
        record = json.loads((folder / "out/training/_export.json").read_text(encoding="utf-8"))
        self.assertGreater(sum(file["rows"] for file in record["files"]), 5000)
        items = self.rows(folder, "job.toml", "select source, count(*) as n from item_feature group by source")
        self.assertEqual(sum(row["n"] for row in items), 400)
        self.assertIn("evidence", [row["source"] for row in items])
        if lacking:
            self.skipTest(f"the export is there; not trained without {', '.join(lacking)}")
        lines = printed[1].splitlines()
        self.assertEqual([line.rsplit(maxsplit=2)[0] for line in lines[2:]], ["popularity", "ids", "ids and texts"])
        shares = [[float(share) for share in line.split()[-2:]] for line in lines[2:]]
        self.assertTrue(all(0 <= share <= 1 for line in shares for share in line), shares)
        # Nothing but a text can place an item that nobody has taken.
        self.assertEqual((shares[0][1], shares[1][1]), (0, 0))
        if HOME:
            self.assertGreater(shares[2][0], shares[1][0])
            self.assertGreater(shares[2][1], 0)

    def test_feast(self):
        folder, printed, lacking = self.example("feast")
        tree = ast.parse((folder / "out/feature_repo/curec.py").read_text(encoding="utf-8"))
        named = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        self.assertLessEqual({"item", "user", "item_feature", "user_feature", "content_features"}, named)
        days = self.rows(folder, "job.toml", "select distinct dt from item_feature order by dt")
        self.assertEqual([row["dt"] for row in days], ["2026-03-07", "2026-03-14"])
        # What ask.py asks of is described in both nights.
        for table, key in (("item_feature", "item_id = 'O-401'"), ("user_feature", "user_id = 'c28'")):
            asked = f"select count(*) as n from {table} where {key} and not missing"
            self.assertEqual(self.rows(folder, "job.toml", asked), [{"n": 2}])
        if lacking:
            self.skipTest(f"the repository is there; not applied without {', '.join(lacking)}")
        answers = printed[2].splitlines()[-3:]
        self.assertEqual([answer[:8] for answer in answers], ["05 March", "10 March", "16 March"])
        self.assertEqual(answers[0].count("nothing"), 2, answers)
        self.assertNotIn("nothing", answers[1] + answers[2])
        self.assertNotEqual(answers[1][8:], answers[2][8:])

    def test_notebook(self):
        folder, _, _ = self.example("notebook")
        if not is_installed("duckdb"):
            self.skipTest("the night is there; the cells need duckdb")
        cells = json.loads((folder / "reasons.ipynb").read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        has_plots = is_installed("matplotlib")
        told = notebook([source for source in sources if has_plots or "plt" not in source], folder)
        self.assertIn("outcome", told)
        self.assertIn("Night Shift", told)
        if not has_plots:
            self.skipTest("all cells but the plots ran; these need matplotlib")


def imported(command):
    """A `curec import csv` in parts: the names of its files, and the mapping as a set of pairs."""
    words = shlex.split(command)
    at = words.index("--mapping")
    files = [Path(word).name for word in words[3:at] + words[at + 2:] if not word.startswith("--")]
    return sorted(files), sorted(words[at + 1].split(","))


def opinions():
    """(likes, dislikes) of the shop: what a customer did last with a product, views left out."""
    last = {}
    with (EXAMPLES / "shop/events.csv").open(encoding="utf-8", newline="") as file:
        for event in csv.DictReader(file):
            if event["action"] != "view":
                last[event["customer_id"], event["sku"]] = event["action"]
    said = list(last.values())
    return said.count("purchase"), said.count("return")


def notebook(sources, folder):
    """Runs cells as a notebook does, in one name space and with the last expression shown; returns what was shown and printed."""
    space, printed = {}, io.StringIO()
    before, backend = os.getcwd(), os.environ.get("MPLBACKEND")
    os.chdir(folder)
    os.environ["MPLBACKEND"] = "Agg"
    try:
        with redirect_stdout(printed):
            for source in sources:
                tree = ast.parse(source)
                last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
                exec(compile(tree, "cell", "exec"), space)
                shown = eval(compile(ast.Expression(last.value), "cell", "eval"), space) if last else None
                if shown is not None:
                    print(shown)
    finally:
        os.chdir(before)
        del os.environ["MPLBACKEND"]
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return printed.getvalue()


if __name__ == "__main__":
    unittest.main()
