"""The nightly job as an Airflow 3 DAG.

Needs apache-airflow 3 and apache-airflow-providers-standard. Copy it into the DAG folder; change CUREC_DIR.

A run is a function of its data interval: both bounds are passed, nothing reads the clock. CronDataIntervalTimetable
is named on purpose: in Airflow 3 a plain cron string gives runs whose data interval is empty.

Exit codes (docs/operations.md) become task states: 0 success, 99 skipped (nothing to do, because of --skip-exit-code). FINAL_CODES
fail at once, because running it again as it is would not help. Anything else, such as 75 (the log has not arrived yet, or a
fault that may pass) or a kill, is retried until DEADLINE. A task that fails for good calls alarm(). The last line of standard
output is a one-line JSON summary, which goes to XCom as a dictionary.

jobs/nightly_pod_dag.py is the same with a pod of Kubernetes for each run.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta, timezone
from functools import cached_property

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.timetables.interval import CronDataIntervalTimetable

try:
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
except ImportError:  # the first releases of Airflow 3 keep them elsewhere
    from airflow.exceptions import AirflowFailException, AirflowSkipException

CUREC_DIR = "/opt/curec"
NOTHING_TO_DO = 99
FINAL_CODES = {1, 2, 101}  # refused to publish, wrong configuration, a defect in curec
DEADLINE = timedelta(hours=5)  # so long after the first try a late log or a fault is waited out
RETRY_DELAY = timedelta(minutes=15)


def alarm(context):
    """Called once, when the deadline has passed or the failure is final: put your pager or mail here."""
    logging.getLogger("curec").error("the night was not published: %s", context.get("exception"))


class ExitCodeHook(SubprocessHook):
    """Remembers the exit code, which BashOperator's exception only spells out in its text."""

    exit_code: int | None = None

    def run_command(self, *args, **kwargs):
        result = super().run_command(*args, **kwargs)
        self.exit_code = result.exit_code
        return result


class CurecOperator(BashOperator):
    """A BashOperator that retries only what a retry can help."""

    @cached_property
    def subprocess_hook(self):
        return ExitCodeHook()

    def execute(self, context):
        try:
            return super().execute(context)
        except AirflowSkipException:
            raise
        except Exception as error:
            if self.subprocess_hook.exit_code in FINAL_CODES:
                raise AirflowFailException(f"curec ended with exit code {self.subprocess_hook.exit_code}") from error
            raise


with DAG(
    dag_id="curec_nightly",
    description="Reasons and content features from yesterday's interactions",
    schedule=CronDataIntervalTimetable("30 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,  # True fills in missed nights, one after the other: runs are idempotent
    max_active_runs=1,
    default_args={
        "retries": DEADLINE // RETRY_DELAY,
        "retry_delay": RETRY_DELAY,
        "on_failure_callback": alarm,
    },
    tags=["curec"],
) as dag:
    CurecOperator(
        task_id="run",
        cwd=CUREC_DIR,
        bash_command=(
            "exec curec run jobs/nightly.toml"
            " --interval-start {{ data_interval_start | ds }}"
            " --interval-end {{ data_interval_end | ds }}"
            " --skip-exit-code"
        ),
        skip_on_exit_code=NOTHING_TO_DO,
        output_processor=json.loads,
        execution_timeout=timedelta(hours=6),  # ends with SIGTERM: curec drains and keeps its progress
    )
