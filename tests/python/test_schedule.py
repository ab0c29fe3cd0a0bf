"""jobs/*.cron and jobs/nightly_dag.py: each cron line's own command is run, with a stub in curec's place.

Needs no Airflow: the DAG file is compiled, read as a syntax tree, and its operator is run against small stand-ins for
the four Airflow names that it uses. ci/airflow.sh runs it in Airflow itself. systemd and Kubernetes: test_services.py.
"""

import ast
import datetime
import importlib.util
import os
import py_compile
import re
import stat
import subprocess
import sys
import tempfile
import time
import types
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CRON = ROOT / "jobs/nightly.cron"
WEEKLY = ROOT / "jobs/weekly.cron"
DAG = ROOT / "jobs/nightly_dag.py"

STUB = """#!/bin/sh
echo "$PWD $*" >>"$STUB_CALLS"
echo "progress" >&2
sleep "${STUB_SLEEP:-0}"
echo '{"status":"stub"}'
exit "${STUB_CODE:-0}"
"""


def cron_parts(crontab):
    """The variables of a crontab and its one command line, with cron's own treatment of per cent signs."""
    variables, commands = {}, []
    for line in crontab.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if m := re.fullmatch(r"([A-Z_]+)=(.*)", line):
            variables[m.group(1)] = m.group(2)
        else:
            commands.append(line)
    schedule, command = re.fullmatch(r"((?:\S+ ){5})(.*)", commands[0]).groups()
    assert re.search(r"(?<!\\)%", command) is None, "cron would cut the command at a bare %"
    return variables, schedule.split(), command.replace("\\%", "%"), commands


@unittest.skipUnless(sys.platform == "linux", "flock and GNU date")
class Cron(unittest.TestCase):
    crontab, prefix = CRON, "NIGHTLY"

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        (self.folder / "bin").mkdir()
        stub = self.folder / "bin/curec"
        stub.write_text(STUB, encoding="utf-8")
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
        self.variables, _, self.command, _ = cron_parts(self.crontab)
        self.calls = self.folder / "calls"
        self.log = self.folder / "nightly.log"
        self.done = self.folder / "done"

    def start(self, **extra):
        """Starts the cron line as cron does: /bin/sh -c, only the crontab's variables."""
        environment = {
            **self.variables,
            "PATH": f"{self.folder / 'bin'}:{self.variables['PATH']}",
            "HOME": str(self.folder),
            f"{self.prefix}_DIR": str(ROOT),
            f"{self.prefix}_LOG": str(self.log),
            f"{self.prefix}_LOCK": str(self.folder / "lock"),
            f"{self.prefix}_DONE": str(self.done),
            f"{self.prefix}_DEADLINE": "24",
            "STUB_CALLS": str(self.calls),
            **extra,
        }
        shell = self.variables["SHELL"]
        return subprocess.Popen([shell, "-c", self.command], env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def run_line(self, mails="", **extra):
        """The exit code of one round; what it prints cron mails: nothing, or a line with `mails` in it."""
        process = self.start(**extra)
        output, _ = process.communicate(timeout=30)
        if mails:
            self.assertEqual(len(output.splitlines()), 1, output)
            self.assertIn(mails, output)
        else:
            self.assertEqual(output, "", "cron would mail this")
        return process.returncode

    def test_one_line_within_crons_limit(self):
        _, schedule, _, commands = cron_parts(self.crontab)
        self.assertEqual(len(commands), 1)
        self.assertEqual(len(schedule), 5)
        self.assertLess(len(commands[0]), 999)

    def expected(self, day):
        """The command line for a run on that day."""
        return f"run jobs/nightly.toml --interval-start {day - datetime.timedelta(days=1)} --interval-end {day}"

    def test_the_interval_ends_today(self):
        before = datetime.datetime.now(datetime.timezone.utc).date()
        self.assertEqual(self.run_line(), 0)
        after = datetime.datetime.now(datetime.timezone.utc).date()
        [call] = self.calls.read_text().splitlines()
        self.assertIn(call, [f"{ROOT} {self.expected(day)}" for day in (before, after)])

    def test_both_streams_and_the_exit_code_are_logged(self):
        self.run_line()
        log = self.log.read_text()
        for part in ("progress", '{"status":"stub"}', "exit code 0"):
            self.assertIn(part, log)

    def test_a_second_run_leaves_while_the_first_holds_the_lock(self):
        first = self.start(STUB_SLEEP="3")
        deadline = time.monotonic() + 10
        while not self.calls.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        started = time.monotonic()
        self.assertEqual(self.run_line(), 75)
        self.assertLess(time.monotonic() - started, 2)
        self.assertEqual(first.wait(timeout=30), 0)
        first.stdout.close()
        self.assertEqual(len(self.calls.read_text().splitlines()), 1)

    def test_what_a_rerun_can_help_is_tried_again(self):
        for code in ("75", "137"):
            self.assertEqual(self.run_line(STUB_CODE=code), int(code))
            self.assertFalse(self.done.exists())
        self.assertEqual(self.run_line(), 0)
        self.run_line()
        self.assertEqual(len(self.calls.read_text().splitlines()), 3, "the night was over after exit code 0")

    def test_a_refusal_is_final_and_alarms_at_once(self):
        for code in ("1", "2"):
            self.done.unlink(missing_ok=True)
            self.calls.unlink(missing_ok=True)
            self.assertEqual(self.run_line(f"exit code {code}, final", STUB_CODE=code), int(code))
            self.run_line()
            self.assertEqual(len(self.calls.read_text().splitlines()), 1)

    def test_what_has_not_arrived_by_the_deadline_alarms_and_can_still_come(self):
        deadline = {f"{self.prefix}_DEADLINE": "0"}
        for code in ("75", "137"):
            self.assertEqual(self.run_line("not done by the deadline", STUB_CODE=code, **deadline), int(code))
        self.assertFalse(self.done.exists())
        self.assertEqual(self.run_line(**deadline), 0)
        self.assertTrue(self.done.exists(), "a last round that goes well is no alarm")

    def test_the_deadline_is_an_hour_of_the_rounds(self):
        variables, schedule, _, _ = cron_parts(self.crontab)
        hours = schedule[1].split("/")[0].split("-")
        self.assertEqual(int(variables[f"{self.prefix}_DEADLINE"]), int(hours[1]), "the last round has to alarm")


class Weekly(Cron):
    """The same for the weekly run's line."""

    crontab, prefix = WEEKLY, "WEEKLY"

    def expected(self, day):
        start = day - datetime.timedelta(days=28)
        return f"learn weekly jobs/weekly.toml --interval-start {start} --interval-end {day}"


class FailException(Exception):
    """Stands in for AirflowFailException."""


class SkipException(Exception):
    """Stands in for AirflowSkipException."""


def airflow_stand_ins(exit_code):
    """Modules with just what the DAG file imports; the hook runs nothing and returns `exit_code`."""
    recorded = {}

    class Hook:
        def run_command(self, command=None, **_):
            recorded["command"] = command
            return types.SimpleNamespace(exit_code=exit_code, output="{}")

    class Bash:
        def __init__(self, **arguments):
            recorded["operator"] = arguments
            recorded["instance"] = self
            self.skip, self.bash_command = arguments["skip_on_exit_code"], arguments["bash_command"]

        def execute(self, _):
            result = self.subprocess_hook.run_command(command=["bash", "-c", self.bash_command])
            if result.exit_code == self.skip:
                raise SkipException
            if result.exit_code:
                raise RuntimeError("failed, to be retried")
            return recorded["operator"]["output_processor"](result.output)

    class Dag:
        def __init__(self, **arguments):
            recorded["dag"] = arguments

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    names = {
        "airflow": {},
        "airflow.sdk.exceptions": {"AirflowFailException": FailException, "AirflowSkipException": SkipException},
        "airflow.providers": {}, "airflow.providers.standard": {}, "airflow.providers.standard.hooks": {},
        "airflow.providers.standard.hooks.subprocess": {"SubprocessHook": Hook},
        "airflow.providers.standard.operators": {},
        "airflow.providers.standard.operators.bash": {"BashOperator": Bash},
        "airflow.sdk": {"DAG": Dag},
        "airflow.timetables": {},
        "airflow.timetables.interval": {"CronDataIntervalTimetable": lambda cron, timezone: ("interval", cron, timezone)},
    }
    modules = {}
    for name, members in names.items():
        modules[name] = types.ModuleType(name)
        vars(modules[name]).update(members)
    return modules, recorded


class Dag(unittest.TestCase):
    def load(self, exit_code=0):
        modules, recorded = airflow_stand_ins(exit_code)
        saved = {name: sys.modules.get(name) for name in modules}
        sys.modules.update(modules)
        try:
            spec = importlib.util.spec_from_file_location("nightly_dag_under_test", DAG)
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        finally:
            for name, module in saved.items():
                if module is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module
        return recorded

    def test_it_compiles(self):
        with tempfile.TemporaryDirectory() as folder:
            py_compile.compile(str(DAG), cfile=os.path.join(folder, "dag.pyc"), doraise=True)

    def test_nothing_reads_the_clock(self):
        for node in ast.walk(ast.parse(DAG.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                self.assertNotIn(node.attr, ("now", "utcnow", "today"))

    def test_the_data_interval_is_passed_and_runs_do_not_overlap(self):
        recorded = self.load()
        self.assertEqual(recorded["dag"]["schedule"][0], "interval")
        self.assertEqual(recorded["dag"]["schedule"][2], "UTC")
        self.assertEqual(recorded["dag"]["max_active_runs"], 1)
        arguments = recorded["dag"]["default_args"]
        waited = arguments["retries"] * arguments["retry_delay"]
        self.assertGreaterEqual(waited, datetime.timedelta(hours=4), "a late log is waited for through the night")
        self.assertNotIn("retry_exponential_backoff", arguments)
        self.assertEqual(recorded["operator"]["skip_on_exit_code"], 99)
        words = " ".join(recorded["operator"]["bash_command"].split())
        self.assertIn("curec run jobs/nightly.toml", words)
        self.assertIn("--interval-start {{ data_interval_start | ds }}", words)
        self.assertIn("--interval-end {{ data_interval_end | ds }}", words)

    def test_what_fails_for_good_alarms(self):
        alarm = self.load()["dag"]["default_args"]["on_failure_callback"]
        with self.assertLogs("curec", "ERROR") as logged:
            alarm({"exception": "exit code 75"})
        self.assertIn("exit code 75", logged.output[0])

    def test_exit_codes_become_task_states(self):
        states = {0: None, 99: SkipException, 75: RuntimeError, -9: RuntimeError, 137: RuntimeError,
                  1: FailException, 2: FailException, 101: FailException}
        for code, expected in states.items():
            operator = self.load(code)["instance"]
            with self.subTest(exit_code=code):
                if expected is None:
                    self.assertEqual(operator.execute({}), {}, "the summary goes to XCom as a dictionary")
                else:
                    self.assertRaises(expected, operator.execute, {})


if __name__ == "__main__":
    unittest.main()
