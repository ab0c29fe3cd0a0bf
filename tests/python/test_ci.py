"""The counting in ci/test.sh: a step that fails must never end in "0 failed"."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def counts(script, output=""):
    """Sources ci/test.sh, runs `script` with a file of `output` as $1, returns (exit code, last line)."""
    with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
        file.write(output)
        file.flush()
        code = f"source ci/test.sh\n{script}\nsummary"
        run = subprocess.run(
            ["bash", "-c", code, "bash", file.name], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
        )
    return run.returncode, run.stdout.strip().splitlines()[-1]


class Counting(unittest.TestCase):
    def test_cargo_lines_are_summed(self):
        output = (
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n"
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n"
        )
        self.assertEqual(counts('count_cargo "$1"', output), (1, "15 passed, 2 failed"))

    def test_python_lines_are_summed(self):
        output = "Ran 10 tests in 0.1s\n\nFAILED (failures=2, errors=1, skipped=3)\n"
        self.assertEqual(counts('count_python "$1"', output), (1, "4 passed, 3 failed"))
        self.assertEqual(counts('count_python "$1"', "Ran 1 test in 0.1s\n\nOK\n"), (0, "1 passed, 0 failed"))

    def test_a_step_counts_once(self):
        self.assertEqual(counts("step good true; step bad false"), (1, "1 passed, 1 failed"))

    def test_tests_that_do_not_compile_are_a_failure(self):
        self.assertEqual(counts("counted broken count_cargo false"), (1, "0 passed, 1 failed"))

    def test_failed_tests_are_not_counted_twice(self):
        script = "fake() { echo 'test result: FAILED. 3 passed; 2 failed;'; return 101; }; counted tests count_cargo fake"
        self.assertEqual(counts(script), (1, "3 passed, 2 failed"))

    def test_without_airflow_and_network_a_reason_is_given(self):
        with tempfile.TemporaryDirectory() as home:
            command = [ROOT / "ci/airflow.sh", "--install"]
            environment = {**os.environ, "HOME": home, "CUREC_OFFLINE": "1"}
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout.strip()), (1, "no environment with Airflow, and CUREC_OFFLINE=1"))

    def test_without_mdbook_and_network_a_reason_is_given(self):
        with tempfile.TemporaryDirectory() as home:
            command = [ROOT / "ci/book.sh", "--install"]
            environment = {**os.environ, "HOME": home, "CUREC_OFFLINE": "1"}
            environment.pop("CUREC_MDBOOK", None)
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout.strip()), (1, "no mdBook, and CUREC_OFFLINE=1"))

    def test_without_readers_and_network_a_reason_is_given(self):
        with tempfile.TemporaryDirectory() as home:
            command = [ROOT / "ci/readers.sh", "--install"]
            environment = {**os.environ, "HOME": home, "CUREC_OFFLINE": "1"}
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout.strip()), (1, "no environment with Spark and Feast, and CUREC_OFFLINE=1"))

    def test_a_debian_package_that_cannot_be_had_is_a_skip(self):
        script = "export CUREC_OFFLINE=1; apt_get 'pages: no Chromium' chromium fonts"
        code = f"source ci/test.sh\n{script}\nsummary"
        run = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0)
        self.assertIn("skipped: pages: no Chromium (Debian: apt-get install chromium fonts)\n", run.stdout)


if __name__ == "__main__":
    unittest.main()
