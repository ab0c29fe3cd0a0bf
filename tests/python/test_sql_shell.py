"""`curec sql` on a terminal: a pseudo-terminal in a person's place types commands, queries and mistakes.

    CUREC_BIN=<binary> CUREC_JOB=<job file> python tests/python/test_sql_shell.py

tests/cli/shell.rs sets both: a binary and a small world. Without them the tests are skipped.
"""

import fcntl
import os
import pty
import re
import select
import signal
import stat
import struct
import tempfile
import termios
import time
import unittest
from pathlib import Path

BINARY, JOB = os.environ.get("CUREC_BIN"), os.environ.get("CUREC_JOB")
PROMPT = "curec> "
# Colours, cursor movements and modes: the line editor's own.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS = 60


class Terminal:
    """The shell on a terminal of its own."""

    def __init__(self, state):
        self.seen = ""
        self.child, self.fd = pty.fork()
        if self.child == 0:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("CUREC_")}
            environment.update({"TERM": "xterm", "XDG_STATE_HOME": str(state)})
            try:
                os.execve(BINARY, ["curec", "sql", "--job", JOB], environment)
            finally:
                os._exit(127)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))

    def type(self, text):
        os.write(self.fd, text.encode())

    def read(self):
        """What comes next; empty at the end."""
        if not select.select([self.fd], [], [], 0.1)[0]:
            return None
        try:
            return os.read(self.fd, 65536).decode("utf-8", "replace")
        except OSError:
            return ""

    def until(self, wanted):
        """What is shown up to a text, which is taken as well."""
        deadline = time.monotonic() + SECONDS
        while wanted not in self.seen:
            text = self.read()
            if text == "" or time.monotonic() > deadline:
                raise AssertionError(f"{wanted!r} is not in {self.seen!r}")
            self.seen += text or ""
        shown, _, self.seen = self.seen.partition(wanted)
        return shown

    def answer(self, text):
        """What a command shows, up to the next prompt after it."""
        self.type(text + "\r")
        # While it is typed the prompt is drawn again and again.
        self.until("\r\n")
        return self.until(PROMPT)

    def end(self):
        """The exit code, once everything is read."""
        deadline = time.monotonic() + SECONDS
        while self.read() != "" and time.monotonic() < deadline:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])

    def close(self):
        try:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)


@unittest.skipUnless(BINARY and JOB, "CUREC_BIN and CUREC_JOB name no binary and no job")
class Shell(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.state = Path(scratch.name)
        self.terminal = Terminal(self.state)
        self.addCleanup(self.terminal.close)
        self.terminal.until(PROMPT)

    def test_a_session(self):
        answer = self.terminal.answer
        tables = answer("\\d").split()
        self.assertTrue({"interaction", "item", "response", "quarantine"} <= set(tables), tables)
        self.assertRegex(answer("\\d item"), r"item_id +Utf8")
        self.assertRegex(answer("select count(*) as n from item;"), r"\| \d+ +\|")
        self.assertIn("error: ", ESCAPES.sub("", answer("selec 1;")))
        self.assertIn("not allowed", answer("drop table item;"))
        self.assertIn("| 42", answer("select 42 as answer;"), "the shell goes on after mistakes")
        self.assertIn("timing is on", answer("\\timing"))
        self.assertRegex(answer("select 1 as one;"), r"time: \d+\.\d+ s")
        self.terminal.type("\x04")
        self.assertEqual(self.terminal.end(), 0)
        history = self.state / "curec/sql_history"
        self.assertIn("select 42 as answer;", history.read_text(encoding="utf-8"))
        self.assertEqual(stat.S_IMODE(history.stat().st_mode), 0o600)

    def test_a_statement_spans_lines_and_a_file_brings_several(self):
        self.terminal.type("select 6 *\r")
        self.terminal.type("7 as answer;\r")
        self.terminal.until("| 42")
        self.terminal.until(PROMPT)
        file = self.state / "two.sql"
        file.write_text("select 'a;' as first;\nselect 'b' as second;\n", encoding="utf-8")
        shown = self.terminal.answer(f"\\i {file}")
        self.assertIn("| a;", shown)
        self.assertIn("| b", shown)
        self.terminal.type("\\q\r")
        self.assertEqual(self.terminal.end(), 0)

    def test_what_data_hold_steers_no_terminal(self):
        shown = self.terminal.answer("select chr(27) || '[2J' || chr(27) || ']0;x' as evil;")
        self.assertIn("\\u{1b}[2J\\u{1b}]0;x", shown)
        self.assertNotIn("\x1b", ESCAPES.sub("", shown))
        self.assertNotIn("\x1b[2J", shown)

    def test_tab_completes(self):
        self.terminal.type("select count(*) as n from interact\t")
        self.terminal.until("interaction")
        self.assertRegex(self.terminal.answer(";"), r"\| \d+ +\|")

    def test_an_interrupt_clears_the_line_or_stops_the_query(self):
        self.terminal.type("select 1 from nowhere\x03")
        self.terminal.until(PROMPT)
        self.assertIn("| 5", self.terminal.answer("select 5 as five;"))
        # Minutes of work.
        self.terminal.type("select sum(value % 7) from generate_series(1, 1000000000000);\r")
        self.terminal.until("\r\n")
        time.sleep(1)
        self.terminal.type("\x03")
        self.assertIn("stopped", self.terminal.until(PROMPT))
        self.assertIn("| 6", self.terminal.answer("select 6 as six;"))


if __name__ == "__main__":
    unittest.main()
