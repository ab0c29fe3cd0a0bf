"""jobs/systemd, jobs/kubernetes, jobs/nightly_pod_dag.py and jobs/nightly.logrotate: each is checked by the program that reads it,
and its command line is run with a stub in curec's place.

What a machine lacks (systemd-analyze, logrotate, kubernetes-validate) is skipped. ci/airflow.sh runs the DAG in Airflow itself.
"""

import configparser
import datetime
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path

import test_schedule

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "jobs/systemd/curec-nightly.service"
TIMER = ROOT / "jobs/systemd/curec-nightly.timer"
CRONJOB = ROOT / "jobs/kubernetes/nightly.yaml"
POD_DAG = ROOT / "jobs/nightly_pod_dag.py"
LOGROTATE = ROOT / "jobs/nightly.logrotate"
# Codes of docs/operations.md that running the same again does not help.
FINAL = {1, 2, 101}
VERSIONS = ("1.29", "1.31", "1.34", "1.37")

KUBERNETES = importlib.util.find_spec("kubernetes_validate") is not None


def grace():
    """The seconds that a run drains at most, by default."""
    settings = (ROOT / "src/config/job.toml").read_text(encoding="utf-8")
    return float(re.search(r"^grace_seconds = ([\d.]+)$", settings, re.MULTILINE).group(1))


def seconds(text):
    """A time span of systemd, of the forms that the units use."""
    number, unit = re.fullmatch(r"(\d+)(s|min|h)", text).groups()
    return int(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def unit(path):
    """A unit file as sections of names and values; a name that stands twice is an error here."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#", ";"), strict=True)
    parser.optionxform = str
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def run_with_stub(command, folder, **extra):
    """Runs words with a stub named curec on the path; returns exit code and the stub's arguments."""
    (folder / "bin").mkdir(exist_ok=True)
    stub, calls = folder / "bin/curec", folder / "calls"
    stub.write_text('#!/bin/sh\necho "$*" >>"$STUB_CALLS"\n', encoding="utf-8")
    stub.chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "STUB_CALLS": str(calls), **extra}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


class Scratch(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)


class Systemd(Scratch):
    def setUp(self):
        super().setUp()
        self.unit, self.service = unit(SERVICE)["Unit"], unit(SERVICE)["Service"]

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_systemd_accepts_the_units_and_finds_them_hardened(self):
        units = [shutil.copy(path, self.folder) for path in (SERVICE, TIMER)]
        verified = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
        # Units of the machine's own that it looks at on the way may have faults of theirs.
        told = [line for line in (verified.stdout + verified.stderr).splitlines() if "curec" in line]
        self.assertEqual((verified.returncode, told), (0, []))
        options = subprocess.run(["systemd-analyze", "--help"], capture_output=True, text=True).stdout
        if "--offline" in options:
            secure = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager", units[0]]
            secured = subprocess.run(secure, capture_output=True, text=True)
            self.assertEqual(secured.returncode, 0, secured.stdout[-400:])

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_systemd_would_tell_of_a_wrong_unit(self):
        wrong = self.folder / SERVICE.name
        wrong.write_text(SERVICE.read_text(encoding="utf-8").replace("Restart=on-failure", "Restart=sometimes"), encoding="utf-8")
        verified = subprocess.run(["systemd-analyze", "verify", wrong], capture_output=True, text=True)
        self.assertIn("sometimes", verified.stdout + verified.stderr)

    @unittest.skipUnless(sys.platform == "linux", "GNU date")
    def test_the_command_line_names_yesterday_in_utc(self):
        # As systemd does: words with quotation marks, then %% and $$.
        command = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(self.service["ExecStart"])]
        before = datetime.datetime.now(datetime.timezone.utc).date()
        code, calls = run_with_stub(command, self.folder, TZ="Pacific/Kiritimati")
        after = datetime.datetime.now(datetime.timezone.utc).date()
        self.assertEqual(code, 0)
        day = datetime.timedelta(days=1)
        expected = [f"run jobs/nightly.toml --interval-start {d - day} --interval-end {d} --skip-exit-code" for d in (before, after)]
        self.assertEqual(len(calls), 1)
        self.assertIn(calls[0], expected)
        alone = re.sub(r"%%|\$\$", "", self.service["ExecStart"])
        self.assertNotRegex(alone, r"[%$]", "systemd would take it for a specifier or a variable of its own")

    def test_exit_codes_decide(self):
        self.assertEqual(self.service["SuccessExitStatus"], "99")
        self.assertIn("--skip-exit-code", self.service["ExecStart"])
        self.assertEqual(self.service["Restart"], "on-failure")
        self.assertEqual({int(code) for code in self.service["RestartPreventExitStatus"].split()}, FINAL)

    def test_tries_end_before_the_next_night(self):
        tries, wait = int(self.unit["StartLimitBurst"]), seconds(self.service["RestartSec"])
        window = seconds(self.unit["StartLimitIntervalSec"])
        self.assertGreaterEqual(tries * wait, 4 * 3600, "a late log is waited for through the night")
        self.assertLess(tries * wait, window, "the count would begin anew before it is reached")
        self.assertLess(window + seconds(unit(TIMER)["Timer"]["RandomizedDelaySec"]), 24 * 3600)

    def test_a_stop_leaves_time_to_drain(self):
        self.assertGreaterEqual(seconds(self.service["TimeoutStopSec"]), 2 * grace())


def expand(text, environment):
    """References $(NAME) in a command of a container, as Kubernetes expands them: what it does not know it leaves."""
    out, at = "", 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            out, at = out + text[at], at + 1
        elif text[at + 1] == "$":
            out, at = out + "$", at + 2
        elif text[at + 1] == "(" and ")" in text[at:]:
            end = text.index(")", at)
            name = text[at + 2:end]
            out, at = out + environment.get(name, text[at:end + 1]), end + 1
        else:
            out, at = out + text[at:at + 2], at + 2
    return out


@unittest.skipUnless(KUBERNETES, "kubernetes-validate is not installed (ci/test-requirements.txt)")
class Kubernetes(Scratch):
    def setUp(self):
        super().setUp()
        import yaml

        self.cronjob = yaml.safe_load(CRONJOB.read_text(encoding="utf-8"))
        self.spec = self.cronjob["spec"]
        self.job = self.spec["jobTemplate"]["spec"]
        self.pod = self.job["template"]["spec"]
        [self.container] = self.pod["containers"]

    def test_the_schemas_of_kubernetes_accept_it(self):
        import kubernetes_validate

        for version in VERSIONS:
            kubernetes_validate.validate(self.cronjob, version, strict=True)
            kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod_of_the_dag()}, version, strict=True)
        self.pod["restartsPolicy"] = "Never"
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(self.cronjob, VERSIONS[-1], strict=True)

    def test_what_the_schemas_do_not_know(self):
        # These are rules of the API server.
        self.assertLessEqual(len(self.cronjob["metadata"]["name"]), 52)
        self.assertEqual(self.pod["restartPolicy"], "Never", "a failure policy of pods wants it")
        volumes = {volume["name"] for volume in self.pod["volumes"]}
        self.assertEqual({mount["name"] for mount in self.container["volumeMounts"]}, volumes)
        names = {c["name"] for c in self.pod["containers"]}
        for rule in self.job["podFailurePolicy"]["rules"]:
            self.assertEqual(len({"onExitCodes", "onPodConditions"} & set(rule)), 1)
            codes = rule.get("onExitCodes")
            if codes:
                self.assertIn(codes["containerName"], names)
                self.assertEqual(codes["values"], sorted(set(codes["values"])))
                self.assertNotIn(0, codes["values"])

    def test_exit_codes_decide(self):
        final = [rule for rule in self.job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
        self.assertEqual([set(rule["onExitCodes"]["values"]) for rule in final], [FINAL])
        # Kubernetes has no state for "skipped".
        self.assertNotIn("--skip-exit-code", self.container["args"][0])
        waits = [min(10 * 2**n, 360) for n in range(self.job["backoffLimit"])]
        self.assertGreater(sum(waits), self.job["activeDeadlineSeconds"], "the deadline ends a night, not the count")
        self.assertGreaterEqual(self.job["activeDeadlineSeconds"], 5 * 3600)
        self.assertLess(self.job["activeDeadlineSeconds"], 24 * 3600)
        self.assertEqual(self.spec["concurrencyPolicy"], "Forbid")

    def test_a_stop_leaves_time_to_drain(self):
        self.assertGreaterEqual(self.pod["terminationGracePeriodSeconds"], 2 * grace())
        self.assertGreaterEqual(pod_of_the_dag()["spec"]["terminationGracePeriodSeconds"], 2 * grace())

    def command(self, job_name):
        environment = {"JOB_NAME": job_name}
        words = [expand(word, environment) for word in self.container["command"] + self.container["args"]]
        return run_with_stub(words, self.folder, **environment)

    @unittest.skipUnless(sys.platform == "linux", "a date that takes -d @SECONDS")
    def test_the_interval_is_that_of_the_jobs_name(self):
        night = datetime.datetime(2026, 3, 1, 2, 30, tzinfo=datetime.timezone.utc)
        code, calls = self.command(f"curec-nightly-{int(night.timestamp()) // 60}")
        self.assertEqual((code, calls), (0, ["run jobs/nightly.toml --interval-start 2026-02-28 --interval-end 2026-03-01"]))

    @unittest.skipUnless(sys.platform == "linux", "a date that takes -d @SECONDS")
    def test_a_job_of_another_name_is_refused(self):
        for name in ("curec-nightly-by-hand", "curec-nightly-", "x-1; touch gone"):
            self.assertEqual(self.command(name), (2, []))

    def test_the_dag_has_the_same_pod(self):
        of_dag = pod_of_the_dag()["spec"]
        [dag_container] = of_dag.pop("containers")
        mine = {key: value for key, value in self.pod.items() if key != "containers"}
        self.assertGreater(of_dag.pop("activeDeadlineSeconds"), 6 * 3600)
        self.assertEqual(of_dag, mine)
        container = {key: value for key, value in self.container.items() if key not in ("command", "args", "env")}
        variables = [variable for variable in self.container["env"] if variable["name"] != "JOB_NAME"]
        self.assertEqual(dag_container, {**container, "env": variables})


def load_pod_dag(parent=object):
    """jobs/nightly_pod_dag.py with stand-ins for what it imports; returns the module and what its operator was given."""
    given = {}

    class Pod(parent):
        def __init__(self, **arguments):
            given.update(arguments)
            self.base_container_name = "base"

    modules, recorded = test_schedule.airflow_stand_ins(0)
    for name in ("cncf", "cncf.kubernetes", "cncf.kubernetes.operators", "cncf.kubernetes.operators.pod"):
        modules[f"airflow.providers.{name}"] = types.ModuleType(name)
    modules["airflow.providers.cncf.kubernetes.operators.pod"].KubernetesPodOperator = Pod
    saved = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        spec = importlib.util.spec_from_file_location("nightly_pod_dag_under_test", POD_DAG)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, old in saved.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    return module, given, recorded


def pod_of_the_dag():
    return load_pod_dag()[0].POD


class PodDag(unittest.TestCase):
    def test_the_interval_is_passed_and_the_summary_comes_from_a_file(self):
        _, given, recorded = load_pod_dag()
        words = " ".join(given["cmds"] + given["arguments"])
        self.assertEqual(words, "curec run jobs/nightly.toml --interval-start {{ data_interval_start | ds }} --interval-end"
                                " {{ data_interval_end | ds }} --skip-exit-code --summary /airflow/xcom/return.json")
        self.assertEqual((given["do_xcom_push"], given["deferrable"], given["skip_on_exit_code"]), (True, False, 99))
        self.assertEqual(recorded["dag"]["max_active_runs"], 1)

    def test_exit_codes_become_task_states(self):
        class Base:
            failure = RuntimeError("failed, to be retried")

            def cleanup(self, pod, remote_pod, **_):
                raise self.failure

        module, _, _ = load_pod_dag(Base)
        operator = module.CurecPodOperator()
        for code in (1, 2, 75, 101, 137, None):
            terminated = types.SimpleNamespace(exit_code=code) if code else None
            state = types.SimpleNamespace(terminated=terminated)
            statuses = [types.SimpleNamespace(name="sidecar", state=None), types.SimpleNamespace(name="base", state=state)]
            pod = types.SimpleNamespace(status=types.SimpleNamespace(container_statuses=statuses))
            expected = test_schedule.FailException if code in FINAL else RuntimeError
            with self.subTest(exit_code=code), self.assertRaises(expected):
                operator.cleanup(None, pod, xcom_result=None, context={})
        with self.assertRaises(RuntimeError):
            operator.cleanup(None, None)
        Base.failure = test_schedule.SkipException()
        with self.assertRaises(test_schedule.SkipException):
            operator.cleanup(None, None)


@unittest.skipUnless(shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"), "logrotate is not installed")
class Logrotate(Scratch):
    def test_logrotate_turns_the_log_of_the_cron_line(self):
        crontab = test_schedule.CRON.read_text(encoding="utf-8")
        log = re.search(r"^NIGHTLY_LOG=(.*)$", crontab, re.MULTILINE).group(1)
        text = LOGROTATE.read_text(encoding="utf-8")
        self.assertIn(f"\n{log} {{\n", text)
        here = self.folder / "curec-nightly.log"
        here.write_text("a night\n", encoding="utf-8")
        # Another user's name may not exist here, and only root may give files away.
        text = text.replace(log, str(here)).replace("create 0640 root adm", "create 0640")
        rules = self.folder / "rules"
        rules.write_text(text, encoding="utf-8")
        rules.chmod(0o600)
        self.folder.chmod(0o700)
        path = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        done = subprocess.run([path, "--force", "--state", self.folder / "state", rules], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        # Not compressed yet: a run that is going on may still write to it.
        self.assertEqual((self.folder / "curec-nightly.log.1").read_text(), "a night\n")
        self.assertEqual(here.read_text(), "")


if __name__ == "__main__":
    unittest.main()
