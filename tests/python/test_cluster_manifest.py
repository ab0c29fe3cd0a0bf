"""jobs/kubernetes/cluster.yaml: accepted by Kubernetes' schemas, its parts fit together, and nothing else reaches them.

The night's command is run with a stub in curec's place. No cluster is at hand: what only one decides is not tested. What both
manifests share is held against nightly.yaml, which test_services.py checks.
"""

import datetime
import sys
import unittest

from test_services import CRONJOB, KUBERNETES, ROOT, VERSIONS, Scratch, expand, run_with_stub

MANIFEST = ROOT / "jobs/kubernetes/cluster.yaml"


def pod_of(thing):
    """The pod that a workload makes, with its labels."""
    spec = thing["spec"]["jobTemplate"]["spec"] if thing["kind"] == "CronJob" else thing["spec"]
    return spec["template"]


def is_selected(selector, labels):
    return selector.items() <= labels.items()


@unittest.skipUnless(KUBERNETES, "kubernetes-validate is not installed (ci/test-requirements.txt)")
class Cluster(Scratch):
    def setUp(self):
        super().setUp()
        import yaml

        self.things = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
        self.nightly = yaml.safe_load(CRONJOB.read_text(encoding="utf-8"))
        self.workloads = [thing for thing in self.things if thing["kind"] in ("Deployment", "StatefulSet", "CronJob")]
        self.scheduler, self.executors, self.night = self.workloads
        self.services = {thing["metadata"]["name"]: thing["spec"] for thing in self.things if thing["kind"] == "Service"}
        [self.policy] = [thing["spec"] for thing in self.things if thing["kind"] == "NetworkPolicy"]

    def container(self, workload):
        [container] = pod_of(workload)["spec"]["containers"]
        return container

    def flag(self, workload, name):
        """The value of a flag, as `--name=value` or as two words."""
        words = self.container(workload)["args"]
        joined = [word.split("=", 1)[1] for word in words if word.startswith(f"--{name}=")]
        return joined[0] if joined else words[words.index(f"--{name}") + 1]

    def test_the_schemas_of_kubernetes_accept_all_of_it(self):
        import kubernetes_validate

        for version in VERSIONS:
            for thing in self.things:
                with self.subTest(version=version, kind=thing["kind"]):
                    kubernetes_validate.validate(thing, version, strict=True)
        self.executors["spec"]["replica"] = 2
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(self.executors, VERSIONS[-1], strict=True)

    def test_all_of_it_lies_in_one_namespace(self):
        [namespace] = [thing["metadata"] for thing in self.things if thing["kind"] == "Namespace"]
        for thing in self.things:
            if thing["kind"] != "Namespace":
                self.assertEqual(thing["metadata"]["namespace"], namespace["name"], thing["kind"])
        self.assertEqual(namespace["labels"]["pod-security.kubernetes.io/enforce"], "restricted")

    def test_selectors_find_their_own_pods_and_no_others(self):
        for service, owner in (("curec-scheduler", self.scheduler), ("curec-executors", self.executors)):
            found = [w for w in self.workloads if is_selected(self.services[service]["selector"], pod_of(w)["metadata"]["labels"])]
            self.assertEqual(found, [owner], service)
            ports = {port["name"]: port["containerPort"] for port in self.container(owner)["ports"]}
            for port in self.services[service]["ports"]:
                self.assertEqual(ports[port["targetPort"]], port["port"], "the address that others are told has this port")
            self.assertTrue(self.flag(owner, "bind").endswith(f":{port['port']}"))
            self.assertEqual(self.container(owner)["readinessProbe"]["tcpSocket"]["port"], port["targetPort"])
        for workload in (self.scheduler, self.executors):
            self.assertEqual(workload["spec"]["selector"]["matchLabels"], pod_of(workload)["metadata"]["labels"])
        self.assertEqual(self.scheduler["spec"]["replicas"], 1, "executors of one scheduler are unknown to another")
        self.assertEqual(self.scheduler["spec"]["strategy"], {"type": "Recreate"})

    def test_executors_are_reached_by_a_name_of_their_own(self):
        service = self.executors["spec"]["serviceName"]
        self.assertEqual(self.services[service]["clusterIP"], "None")
        namespace = self.executors["metadata"]["namespace"]
        host = expand(self.flag(self.executors, "host"), {"POD_NAME": "curec-executors-1"})
        self.assertEqual(host, f"curec-executors-1.{service}.{namespace}.svc")
        names = {variable["name"]: variable for variable in self.container(self.executors)["env"]}
        self.assertEqual(names["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name")
        self.assertEqual(self.flag(self.executors, "scheduler"), f"df://curec-scheduler.{namespace}.svc:50050")

    def test_only_the_clusters_own_pods_reach_its_ports(self):
        self.assertEqual((self.policy["podSelector"], self.policy["policyTypes"]), ({}, ["Ingress"]), "every pod is closed")
        [rule] = self.policy["ingress"]
        [source] = rule["from"]
        self.assertEqual(set(source), {"podSelector"}, "no other namespace, no address")
        for workload in self.workloads:
            self.assertTrue(is_selected(source["podSelector"]["matchLabels"], pod_of(workload)["metadata"]["labels"]))
        self.assertEqual({port["port"] for port in rule["ports"]}, {50050, 50051})
        for name, service in self.services.items():
            self.assertIn(service.get("type", "ClusterIP"), ("ClusterIP",), name)
            self.assertNotIn("externalIPs", service)
        for workload in self.workloads:
            self.assertNotIn("hostNetwork", pod_of(workload)["spec"])
            self.assertFalse([port for port in self.container(workload).get("ports", []) if "hostPort" in port])

    def test_each_executor_has_a_gpu_and_uses_it(self):
        container = self.container(self.executors)
        self.assertEqual(container["resources"]["limits"]["nvidia.com/gpu"], "1")
        self.assertNotIn("nvidia.com/gpu", container["resources"]["requests"], "the limit is the request")
        self.assertIn({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, pod_of(self.executors)["spec"]["tolerations"])
        self.assertNotIn(self.flag(self.executors, "device"), ("auto", "cpu"), "a missing GPU would go unseen")
        for other in (self.scheduler, self.night):
            self.assertNotIn("nvidia.com/gpu", self.container(other)["resources"].get("limits", {}))
        number, unit = self.flag(self.executors, "memory-limit").split()
        self.assertEqual(unit, "GiB")
        self.assertLess(int(number) * 1.25, int(container["resources"]["limits"]["memory"].removesuffix("Gi")), "the model needs room")

    def test_pods_are_as_closed_as_the_nightly_one(self):
        theirs = self.nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for workload in self.workloads:
            pod, container = pod_of(workload)["spec"], self.container(workload)
            self.assertEqual(pod["securityContext"], theirs["securityContext"])
            self.assertEqual(container["securityContext"], theirs["containers"][0]["securityContext"])
            self.assertEqual(container["image"], theirs["containers"][0]["image"])
            self.assertIs(pod["automountServiceAccountToken"], False)
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], 30)
            self.assertEqual({mount["name"] for mount in container["volumeMounts"]}, {volume["name"] for volume in pod["volumes"]})
            self.assertIn("/tmp", [mount["mountPath"] for mount in container["volumeMounts"]], "the root file system is read-only")

    def test_client_and_executors_see_the_same_files(self):
        def claims(workload):
            pod = pod_of(workload)["spec"]
            claimed = {v["name"]: v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
            self.assertTrue(all(claim["readOnly"] for claim in claimed.values()), "they are mounted on several nodes")
            return {m["mountPath"]: claimed[m["name"]] for m in self.container(workload)["volumeMounts"] if m["name"] in claimed}

        self.assertEqual(claims(self.executors), claims(self.night))
        self.assertEqual(len(claims(self.night)), 2)
        self.assertEqual(self.container(self.executors)["envFrom"], self.container(self.night)["envFrom"])

    def test_the_night_is_the_nightly_one_but_for_its_engine(self):
        mine, theirs = (dict(thing["spec"]) for thing in (self.night, self.nightly))
        my_job, their_job = mine.pop("jobTemplate")["spec"], theirs.pop("jobTemplate")["spec"]
        self.assertEqual(mine, theirs)
        self.assertEqual(mine["concurrencyPolicy"], "Forbid")
        for key in ("activeDeadlineSeconds", "backoffLimit", "podFailurePolicy"):
            self.assertEqual(my_job[key], their_job[key])
        mine, theirs = my_job["template"]["spec"], their_job["template"]["spec"]
        self.assertEqual(mine["terminationGracePeriodSeconds"], theirs["terminationGracePeriodSeconds"])
        [mine], [theirs] = mine["containers"], theirs["containers"]
        self.assertEqual(mine["env"], theirs["env"])
        self.assertLessEqual(len(self.night["metadata"]["name"]), 52)

    @unittest.skipUnless(sys.platform == "linux", "a date that takes -d @SECONDS")
    def test_the_night_goes_to_the_scheduler(self):
        night = datetime.datetime(2026, 3, 1, 2, 30, tzinfo=datetime.timezone.utc)
        environment = {"JOB_NAME": f"curec-cluster-nightly-{int(night.timestamp()) // 60}"}
        container = self.container(self.night)
        words = [expand(word, environment) for word in container["command"] + container["args"]]
        code, calls = run_with_stub(words, self.folder, **environment)
        scheduler = self.flag(self.executors, "scheduler")
        self.assertEqual((code, len(calls)), (0, 1))
        self.assertTrue(calls[0].startswith("run jobs/nightly.toml --interval-start 2026-02-28 --interval-end 2026-03-01 "), calls)
        self.assertIn(f" --engine ballista --set query.scheduler={scheduler}", calls[0])
        self.assertEqual(run_with_stub(words, self.folder, JOB_NAME="x-by-hand")[0], 2)

    def test_the_image_can_be_built_with_a_cluster(self):
        image = (ROOT / "ci/packages/Dockerfile").read_text(encoding="utf-8")
        self.assertIn('ARG FEATURES=""\n', image)
        self.assertIn('--features "$FEATURES"', image)
        self.assertIn("--build-arg FEATURES=cluster", MANIFEST.read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()
