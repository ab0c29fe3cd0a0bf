"""What a person sees: runs and mistakes on a pseudo-terminal, and the same in a pipe.

    CUREC_BIN=<binary> CUREC_JOB=<job file> python tests/python/test_terminal.py

tests/cli/terminal.rs sets both: a binary and a small world. Without them the tests are skipped.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time
import unittest
from pathlib import Path

BINARY, JOB = os.environ.get("CUREC_BIN"), os.environ.get("CUREC_JOB")
DAY = ["--interval-start", "2026-01-20", "--interval-end", "2026-01-21"]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What moves the cursor and clears lines: the line of a stage.
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")
SECONDS = 120
ADAPTER = Path(__file__).resolve().parents[2] / "tests/fixtures/adapters/tiny-qwen3"


def environment(more):
    """The process's own without what decides on colours or belongs to curec, and more."""
    apart = ("CUREC_", "CLICOLOR", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(apart)}
    return {**kept, "TERM": "xterm", **more}


def on_terminal(*arguments, **more):
    """The exit code, and what a terminal gets of both streams, with plain line ends."""
    child, fd = pty.fork()
    if child == 0:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
            os.execve(BINARY, ["curec", *arguments], environment(more))
        finally:
            os._exit(127)
    seen, deadline = b"", time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if not select.select([fd], [], [], 1.0)[0]:
                continue
            try:
                text = os.read(fd, 65536)
            except OSError:
                text = b""
            if not text:
                break
            seen += text
        else:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(fd)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, seen.decode("utf-8", "replace").replace("\r\n", "\n")


def in_pipes(*arguments, **more):
    """The exit code, standard output and standard error where nobody watches."""
    done = subprocess.run([BINARY, *arguments], env=environment(more), capture_output=True, text=True, timeout=SECONDS)
    return done.returncode, done.stdout, done.stderr


def json_lines(text):
    """Lines that are JSON objects."""
    return [line for line in MOVES.sub("", COLOURS.sub("", text)).splitlines() if line.lstrip().startswith("{")]


@unittest.skipUnless(BINARY and JOB, "CUREC_BIN and CUREC_JOB name no binary and no job")
class People(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.night = ["run", JOB, *DAY, "--set", f"warehouse={self.folder}/warehouse"]

    def test_a_run_ends_with_tables_and_the_report(self):
        code, shown = on_terminal(*self.night)
        self.assertEqual(code, 0, shown)
        self.assertEqual(json_lines(shown), [])
        self.assertRegex(shown, r"generate  0 of \d+ prompts")
        self.assertIn("\x1b[4m", shown)
        plain = COLOURS.sub("", shown)
        self.assertRegex(plain, r"(?m)^table +rows$")
        self.assertRegex(plain, r"(?m)^item_feature +\d+  built$")
        self.assertRegex(plain, r"(?m)^reasons +asked +accepted +refused +share$")
        self.assertRegex(plain, r"(?m)^item +\d+ +\d+ +\d+ +\d+\.\d %$")
        self.assertRegex(plain, r"(?m)^prompts +\d+ different: \d+ answers paid, 0 from cache$")
        report = re.search(r"(?m)^report +(/.+)$", plain)
        self.assertTrue(report and Path(report[1]).is_file(), plain)

        code, shown = on_terminal(*self.night)
        self.assertEqual((code, json_lines(shown)), (0, []))
        self.assertIn("Nothing to do: ", shown)
        code, shown = on_terminal(*self.night, "--json")
        self.assertEqual(json.loads(json_lines(shown)[-1])["status"], "nothing_to_do")
        code, shown = on_terminal(*self.night, "--summary", "/dev/stdout")
        self.assertEqual(json.loads(json_lines(shown)[-1])["status"], "nothing_to_do")

    def test_an_export_ends_with_a_table(self):
        code, shown = on_terminal(*self.night)
        self.assertEqual(code, 0, shown)
        export = ["export", JOB, "--set", f"warehouse={self.folder}/warehouse", "--out", f"{self.folder}/training", "--overwrite"]
        code, shown = on_terminal(*export)
        self.assertEqual((code, json_lines(shown)), (0, []), shown)
        plain = COLOURS.sub("", shown)
        self.assertRegex(plain, r"(?m)^features +days +joined +without +share$")
        self.assertRegex(plain, r"(?m)^item_feature +1 +\d+ +\d+ +\d+\.\d %$")
        record = re.search(r"(?m)^record +(/.+_export\.json)$", plain)
        self.assertTrue(record and Path(record[1]).is_file(), plain)

        code, out, err = in_pipes(*export)
        self.assertEqual((code, out.count("\n")), (0, 1), err)
        said = json.loads(out)
        self.assertEqual(said["status"], "exported")
        self.assertRegex(plain, rf"(?m)^rows +{said['rows']:,} in {said['files']} file\(s\), ")
        self.assertEqual(json.loads(json_lines(on_terminal(*export, "--json")[1])[-1]), said)
        self.assertNotIn("features", on_terminal(*export, "--quiet")[1])
        self.assertEqual(in_pipes(*export, "--quiet")[1], out)
        self.assertEqual(in_pipes("export", JOB, "--feast", "--json")[0], 2)

    def test_a_version_is_told_in_words(self):
        registry = ["--job", JOB, "--registry", f"{self.folder}/registry"]
        about = self.folder / "about.json"
        gate = [{"what": "format >= 0.98", "value": 0.99, "holds": True}]
        about.write_text(json.dumps({"metrics": {"bleu4": 12.5}, "seeds": [7], "gate": gate}), encoding="utf-8")
        code, _, err = in_pipes("models", "add", "writer", "--adapter", str(ADAPTER), "--about", str(about), *registry)
        self.assertEqual(code, 0, err)
        code, _, err = in_pipes("models", "promote", "writer", "latest", "--why", "better than none", *registry)
        self.assertEqual(code, 0, err)
        show = ["models", "show", "writer", *registry]
        code, shown = on_terminal(*show)
        self.assertEqual((code, json_lines(shown)), (0, []), shown)
        plain = COLOURS.sub("", shown)
        for line in [
            r"version +writer 0001-\w+", r"in use +yes", r"bleu4 +12\.5000", r"format >= 0\.98 \(found 0\.9900\) +holds",
            r"20\S+Z +0001-\w+ +promoted +better than none",
        ]:
            self.assertRegex(plain, rf"(?m)^{line}$")
        card = json.loads(in_pipes(*show)[1])
        self.assertEqual((card["card"]["name"], card["history"][0]["why"]), ("writer", "better than none"))
        self.assertEqual(json.loads(on_terminal(*show, "--json")[1]), card)

    def test_no_colours_where_none_are_wanted(self):
        code, shown = on_terminal(*self.night, NO_COLOR="1")
        self.assertEqual(code, 0, shown)
        self.assertEqual(COLOURS.findall(shown), [])
        self.assertRegex(shown, r"(?m)^report +/.+report\.html$")
        mistake = ["plan", JOB, *DAY, "--set", "modle.slots=1"]
        self.assertRegex(on_terminal(*mistake)[1], r"\x1b\[1;31merror\x1b\[0m: ")
        for none in [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"CLICOLOR": "0"}]:
            self.assertTrue(on_terminal(*mistake, **none)[1].startswith("error: the job has 1 problem"), none)
        self.assertTrue(in_pipes(*mistake)[2].startswith("error: the job has 1 problem"))
        self.assertTrue(in_pipes(*mistake, CLICOLOR_FORCE="1")[2].startswith("\x1b[1;31merror\x1b[0m: "))

    def test_in_a_pipe_a_program_gets_one_line_of_json(self):
        code, out, err = in_pipes(*self.night)
        self.assertEqual((code, out.count("\n")), (0, 1), err)
        self.assertEqual(json.loads(out)["status"], "published")
        self.assertEqual(COLOURS.findall(err) + MOVES.findall(err), [])
        self.assertTrue(all(json.loads(line) for line in err.splitlines()), err)

    def test_a_mistake_is_shown_where_it_stands(self):
        job = self.folder / "job.toml"
        job.write_text(Path(JOB).read_text(encoding="utf-8") + "[model2]\n[budget]\nmax_minuts = 3\n", encoding="utf-8")
        lines = job.read_text(encoding="utf-8").splitlines()
        number = len(lines)
        for code, shown in [on_terminal("run", str(job), *DAY), in_pipes("run", str(job), *DAY)[::2]]:
            self.assertEqual(code, 2)
            plain = COLOURS.sub("", shown)
            self.assertIn(f"{job}:{number}: budget.max_minuts: unknown key; did you mean `max_minutes`?", plain)
            marked = f"--> {job}:{number}:1\n {' ' * len(str(number))} |\n {number} | max_minuts = 3\n"
            self.assertIn(marked, plain)
            self.assertIn("| ^^^^^^^^^^ did you mean `max_minutes`?\n", plain)
            self.assertIn("  what to do: ", plain)
        self.assertIn(marked, COLOURS.sub("", on_terminal("check", str(job))[1]))
        code, out, _ = in_pipes("check", str(job))
        self.assertEqual((code, out.count("-->")), (2, 0))
        self.assertIn(f"{job}:{number}: problem: settings: budget.max_minuts: unknown key", out)

    def test_a_mistake_in_a_query_is_shown_where_it_stands(self):
        file = self.folder / "two.sql"
        file.write_text("select 1;\n  select titel\n  from item", encoding="utf-8")
        code, shown = on_terminal("sql", "--job", JOB, "-f", str(file))
        self.assertEqual(code, 2, shown)
        self.assertIn(f"--> {file}:2:10\n   |\n 2 |   select titel\n   |          ^^^^^", COLOURS.sub("", shown))
        code, _, err = in_pipes("sql", "--job", JOB, "select 1 +\n  ) from item")
        self.assertIn("--> sql:2:3\n   |\n 2 |   ) from item\n   |   ^", err)


if __name__ == "__main__":
    unittest.main()
