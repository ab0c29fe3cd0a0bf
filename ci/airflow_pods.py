"""A cluster of one machine for KubernetesPodOperator: what it asks of Kubernetes is answered, and a pod is a process.

The operator, its pod manager and the pod that they build are the real ones. Replaced are the API client and the two
commands that are sent into the XCom sidecar, which travel over a WebSocket. Containers share the machine's files; the
folder /airflow/xcom is a folder of the pod's own.
"""

import datetime
import itertools
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

BASE, SIDECAR = "base", "airflow-xcom-sidecar"


def matches(labels, selector):
    """Whether labels satisfy a selector of the forms a=b, a!=b and !a."""
    for part in filter(None, selector.split(",")):
        if part.startswith("!"):
            fits = part[1:] not in labels
        elif "!=" in part:
            name, value = part.split("!=")
            fits = labels.get(name) != value
        else:
            name, value = part.split("=")
            fits = labels.get(name) == value
        if not fits:
            return False
    return True


class Log:
    """The log of a container, as the HTTP response that the client would return: it ends with the container."""

    def __init__(self, process, path):
        self.process, self.path = process, path

    def stream(self, **_):
        self.process.wait()
        for line in self.path.read_bytes().splitlines():
            yield f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ} ".encode() + line + b"\n"

    def close(self):
        pass


class Cluster:
    """The calls of CoreV1Api that the operator makes."""

    def __init__(self, folder):
        self.folder, self.api_client, self.number = Path(folder), ApiClient(), itertools.count(1)
        self.pods, self.processes, self.specs = {}, {}, []

    def create_namespaced_pod(self, body, namespace, **_):
        container = next(c for c in body["spec"]["containers"] if c["name"] == BASE)
        assert any(c["name"] == SIDECAR for c in body["spec"]["containers"]), "the pod has no sidecar for XCom"
        xcom = self.folder / f"pod{next(self.number)}"
        xcom.mkdir(parents=True)
        words = [word.replace("/airflow/xcom", str(xcom)) for word in [*container["command"], *container["args"]]]
        environment = {**os.environ, **{e["name"]: e["value"] for e in container.get("env", []) if "value" in e}}
        with open(xcom / "log", "wb") as log:
            process = subprocess.Popen(words, cwd=container["workingDir"], env=environment, stdout=log, stderr=log)
        metadata = k8s.V1ObjectMeta(name=body["metadata"]["name"], namespace=namespace, labels=body["metadata"]["labels"])
        containers = [k8s.V1Container(name=c["name"]) for c in body["spec"]["containers"]]
        self.pods[metadata.name] = k8s.V1Pod(metadata=metadata, spec=k8s.V1PodSpec(containers=containers))
        self.processes[metadata.name] = (process, xcom)
        self.specs.append(body)
        return self.read_namespaced_pod(metadata.name, namespace)

    def read_namespaced_pod(self, name, namespace, **_):
        pod = self.pods.get(name)
        if pod is None:
            raise ApiException(status=404, reason="Not Found")
        code = self.processes[name][0].poll()
        now = datetime.datetime.now(datetime.timezone.utc)
        running = k8s.V1ContainerState(running=k8s.V1ContainerStateRunning(started_at=now))
        if code is None:
            base = running
        else:
            code = 128 - code if code < 0 else code
            base = k8s.V1ContainerState(terminated=k8s.V1ContainerStateTerminated(exit_code=code, finished_at=now))
        status = {BASE: base, SIDECAR: running}
        statuses = [
            k8s.V1ContainerStatus(name=n, state=s, image="image", image_id="image", ready=True, restart_count=0)
            for n, s in status.items()
        ]
        # As with a real sidecar: the pod goes on running until the operator has read the result and ends it.
        pod.status = k8s.V1PodStatus(phase="Running", container_statuses=statuses)
        return pod

    def list_namespaced_pod(self, namespace, label_selector, **_):
        pods = [self.read_namespaced_pod(n, namespace) for n, p in self.pods.items() if matches(p.metadata.labels, label_selector)]
        return SimpleNamespace(items=pods)

    def read_namespaced_pod_log(self, name, namespace, **_):
        process, xcom = self.processes[name]
        return Log(process, xcom / "log")

    def list_namespaced_event(self, **_):
        return SimpleNamespace(items=[], metadata=SimpleNamespace(resource_version="1"))

    def patch_namespaced_pod(self, name, namespace, body, **_):
        self.pods[name].metadata.labels.update(body["metadata"]["labels"])

    def delete_namespaced_pod(self, name, namespace, **_):
        self.processes[name][0].terminate()
        self.pods.pop(name)

    def xcom(self, name):
        """What the command in the sidecar prints."""
        path = self.processes[name][1] / "return.json"
        return path.read_text(encoding="utf-8") if path.exists() and path.stat().st_size else "__airflow_xcom_result_empty__"


def run_pods_here(folder):
    """Has every KubernetesPodOperator of this process use a cluster of its own; returns the cluster."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager

    cluster = Cluster(folder)
    hook = SimpleNamespace(
        core_v1_client=cluster,
        is_in_cluster=False,
        get_pod=cluster.read_namespaced_pod,
        get_xcom_sidecar_container_image=lambda: None,
        get_xcom_sidecar_container_resources=lambda: None,
        get_xcom_sidecar_container_security_context=lambda: None,
    )
    KubernetesPodOperator.hook = hook
    PodManager.extract_xcom_json = lambda self, pod: cluster.xcom(pod.metadata.name)
    PodManager.extract_xcom_kill = lambda self, pod: None
    return cluster
