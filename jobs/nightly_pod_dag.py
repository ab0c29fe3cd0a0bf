"""The nightly job as an Airflow 3 DAG whose runs are pods.

Needs apache-airflow 3 and apache-airflow-providers-cncf-kubernetes. Copy it into the DAG folder; change CUREC_DIR, the image, the
claims and the environment. jobs/nightly_dag.py is the same without Kubernetes, and tells of intervals and exit codes;
jobs/kubernetes/nightly.yaml is the same pod without Airflow.

The summary comes to XCom from a file, and 99 is no default here: both are said. The operator is not deferrable: deferred ones lose
the XCom of pods that fail and leave pods behind. A worker that dies leaves its pod running; the next try finds it by its
labels and goes on with it. What is not found ends by itself (activeDeadlineSeconds), and curec's lease stops a second pod
of the same day with 75.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
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
LONGEST_RUN = timedelta(hours=6)
GRACE_SECONDS = 90  # longer than `[publish] grace_seconds`, so that SIGTERM can end with 75 and progress kept

POD = {
    "spec": {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(LONGEST_RUN.total_seconds()) + 600,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "base",
                "image": "registry.example/curec:0.1.0",
                "workingDir": CUREC_DIR,
                "env": [
                    {"name": "HOME", "value": "/tmp"},
                    {"name": "CUREC_WAREHOUSE_URL", "value": "s3://your-bucket/curec"},
                    {"name": "CUREC_INPUT", "value": "s3://your-bucket/logs"},
                ],
                "envFrom": [{"secretRef": {"name": "curec-nightly"}}],
                "resources": {"requests": {"cpu": "2", "memory": "6Gi"}, "limits": {"memory": "8Gi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "job", "mountPath": CUREC_DIR},
                    {"name": "models", "mountPath": "/var/lib/curec/models", "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},
                ],
            }
        ],
        "volumes": [
            {"name": "job", "persistentVolumeClaim": {"claimName": "curec-nightly"}},
            {"name": "models", "persistentVolumeClaim": {"claimName": "curec-models", "readOnly": True}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}},
        ],
    }
}


def alarm(context):
    """Called once, when the deadline has passed or the failure is final: put your pager or mail here."""
    logging.getLogger("curec").error("the night was not published: %s", context.get("exception"))


def exit_code(pod, container):
    """The exit code of a pod's container, or None while it has none."""
    for status in (pod and pod.status and pod.status.container_statuses) or []:
        if status.name == container and status.state and status.state.terminated:
            return status.state.terminated.exit_code
    return None


class CurecPodOperator(KubernetesPodOperator):
    """A KubernetesPodOperator that retries only what a retry can help."""

    def cleanup(self, pod, remote_pod, *args, **kwargs):
        try:
            super().cleanup(pod, remote_pod, *args, **kwargs)
        except AirflowSkipException:
            raise
        except Exception as error:
            code = exit_code(remote_pod, self.base_container_name)
            if code in FINAL_CODES:
                raise AirflowFailException(f"curec ended with exit code {code}") from error
            raise


with DAG(
    dag_id="curec_nightly_pod",
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
    CurecPodOperator(
        task_id="run",
        name="curec-nightly",
        namespace="default",
        pod_template_dict=POD,
        cmds=["curec"],
        arguments=[
            "run",
            "jobs/nightly.toml",
            "--interval-start",
            "{{ data_interval_start | ds }}",
            "--interval-end",
            "{{ data_interval_end | ds }}",
            "--skip-exit-code",
            "--summary",
            "/airflow/xcom/return.json",
        ],
        deferrable=False,
        do_xcom_push=True,
        skip_on_exit_code=NOTHING_TO_DO,
        startup_timeout_seconds=600,  # an image that has to be fetched first
        termination_grace_period=GRACE_SECONDS,
        on_finish_action="delete_pod",  # of a failed one too: its log is in Airflow's
        log_pod_spec_on_failure=False,  # it would put the environment into the log
        execution_timeout=LONGEST_RUN,  # deletes the pod, with the grace period: curec drains and keeps its progress
    )
