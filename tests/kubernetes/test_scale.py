"""Many at once through `pulumi up`, on simulated nodes: a thousand pods of one job, two hundred jobs, and a queue.

Simulated pods run until the test gives them an end (the annotation of tests/rig/stages.yaml), so that what is to be
true at one moment can be looked at then.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from tests.engine.harness import Project
from tests.engine.running import Running
from tests.rig.api import Object
from tests.rig.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# For a thousand pods on a machine that does other things too.
PATIENT_SECONDS = 600.0
# A list of hundreds of pods is work for the API server, which has enough to do.
LOOK_SECONDS = 1.0
ENDS: Object = {"metadata": {"annotations": {"tfjobs.test/run-seconds": "0"}}}
MIB = 1 << 20
# A thousand whole pods would be more, and so would a plan in which each replica names all others. It takes about 30.
MOST_GROWTH = 64.0


@dataclass
class Fleet:
    """A namespace whose pods go to simulated nodes of its own."""

    rig: Cluster
    namespace: str

    def target(self, **changes: Any) -> dict[str, Any]:
        """A program's ``computeTarget``."""
        return {
            "kind": "kubernetes",
            "kubeconfig": str(self.rig.kubeconfig),
            "namespace": self.namespace,
            "image": "train:1",
            "nodeSelector": {"fleet": self.namespace},
            **changes,
        }

    def nodes(self, count: int) -> Any:
        """So many nodes of 8 GPUs, as long as the block lasts."""
        return self.rig.add_gpu_nodes(count, labels={"fleet": self.namespace})

    def pods(self) -> list[Object]:
        return self.rig.api.items(f"/api/v1/namespaces/{self.namespace}/pods", resourceVersion="0")

    def running(self) -> list[str]:
        """Names of the pods that run now."""
        return [pod["metadata"]["name"] for pod in self.pods() if pod["status"].get("phase") == "Running"]

    def end(self, names: list[str]) -> None:
        """Let these pods end well."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: self.rig.api.patch(f"{path}/{name}", ENDS), names))

    def job_sets(self) -> list[Object]:
        return self.rig.api.items(f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{self.namespace}/jobsets")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One of their own, which ends with them: what is left of thousands of pods would keep it busy for minutes."""
    with Cluster() as made:
        yield made


@pytest.fixture
def fleet(cluster: Cluster) -> Fleet:
    name = f"fleet-{uuid.uuid4().hex[:8]}"
    cluster.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.api.wait(f"/api/v1/namespaces/{name}/serviceaccounts/default", bool, "a service account for pods")
    return Fleet(cluster, name)


def until(so: Callable[[], Any], what: str, running: Running) -> Any:
    """What ``so`` says, once that is anything; it fails where the update ends before."""
    end = time.monotonic() + PATIENT_SECONDS
    while not (found := so()):
        assert not running.ended, f"the update ended before: {what}\n{running.text}"
        assert time.monotonic() < end, f"not in time: {what}\n{running.text}"
        time.sleep(LOOK_SECONDS)
    return found


def memory(plugin: psutil.Process) -> float:
    """MiB that it holds now."""
    return float(plugin.memory_info().rss) / MIB


def peak(plugin: psutil.Process) -> float:
    """MiB that it held at most; 0 where it has just ended."""
    with contextlib.suppress(OSError), open(f"/proc/{plugin.pid}/status", encoding="ascii") as stream:
        return max((int(line.split()[1]) / 1024 for line in stream if line.startswith("VmHWM")), default=0.0)
    return 0.0


def tell(text: str) -> None:
    print(text)  # noqa: T201 shown with pytest -rP or -s


def test_two_hundred_jobs_at_once(project: Project, fleet: Fleet) -> None:
    count = 200
    with fleet.nodes(count // 8):
        target = fleet.target()
        jobs = {
            f"job-{number}": project.job(computeTarget=target, useGpu=True, scriptParams={"--number": number})
            for number in range(count)
        }
        project.yaml(jobs)
        running = project.start("up", "--yes", "--skip-preview", "--parallel", str(count))
        began = time.monotonic()
        until(fleet.job_sets, "a job is at the cluster", running)
        plugin = running.plugin()
        names = until(lambda: names if len(names := fleet.running()) == count else None, "all run at once", running)
        all_run, seconds = memory(plugin), time.monotonic() - began
        fleet.end(names)
        result = running.ends(PATIENT_SECONDS)
        assert result.code == 0, result.text
    state = project.state()
    assert len(state) == count
    assert {job["outputs"]["status"] for job in state.values()} == {"succeeded"}
    assert {job["outputs"]["attempt"] for job in state.values()} == {1}
    assert len(fleet.job_sets()) == count, "each was launched once"
    assert Counter(pod["status"].get("phase") for pod in fleet.pods()) == {"Succeeded": count}
    tell(f"{count} jobs: plugin {all_run:.0f} MiB when all ran, {seconds:.0f} s after the first launch")


def test_two_jobs_of_eight_gpus_on_eight_in_a_queue(project: Project, fleet: Fleet) -> None:
    fleet.rig.queue(fleet.namespace, "team-a", gpus=8)
    with fleet.nodes(1):
        horovod = {"kind": "horovod", "nodes": 1, "processesPerNode": 8}
        target = fleet.target(queue="team-a")
        jobs = {
            name: project.job(computeTarget=target, distribution=horovod, useGpu=True, scriptParams={"--name": name})
            for name in ("one", "other")
        }
        project.yaml(jobs)
        running = project.start_up()
        (first,) = until(fleet.running, "one of them runs", running)
        running.says("queued, in queue team-a, place 1: needs 8 more nvidia.com/gpu")
        assert fleet.running() == [first], "the other one waits"
        fleet.end([first])
        (second,) = until(
            lambda: [name for name in fleet.running() if name != first], "the other one runs after it", running
        )
        fleet.end([second])
        result = running.ends()
        assert result.code == 0, result.text
    ended = {name: job["outputs"] for name, job in project.state().items()}
    assert {name: outputs["status"] for name, outputs in ended.items()} == {"one": "succeeded", "other": "succeeded"}
    early, late = sorted(ended, key=lambda name: str(ended[name]["startedAt"]))
    assert ended[early]["finishedAt"] <= ended[late]["startedAt"]
    assert "needs 8 more" in result.said(late, ephemeral=True)
    assert "needs 8 more" not in result.said(early, ephemeral=True)


def test_a_job_of_a_thousand_replicas(project: Project, fleet: Fleet) -> None:
    count = 1000
    with fleet.nodes(count // 8):
        workers = {"kind": "multiWorker", "workers": count}
        project.yaml({"many": project.job(computeTarget=fleet.target(), distribution=workers, useGpu=True)})
        running = project.start_up()
        until(fleet.job_sets, "the job is at the cluster", running)
        plugin = running.plugin()
        before, began = memory(plugin), time.monotonic()
        running.says(f"{count}/{count} replicas", PATIENT_SECONDS)
        all_run, seconds = memory(plugin), time.monotonic() - began
        most = peak(plugin)
        names = fleet.running()
        assert len(names) == count, "what the row says is so: all of them run at one time"
        fleet.end(names)
        running.says("succeeded", PATIENT_SECONDS)
        most = max(most, peak(plugin))
        result = running.ends(PATIENT_SECONDS)
        assert result.code == 0, result.text
    outputs = project.state()["many"]["outputs"]
    assert (outputs["status"], outputs["worldSize"], len(outputs["logs"])) == ("succeeded", count, count)
    assert most - before < MOST_GROWTH, f"a thousand pods cost {most - before:.0f} MiB"
    tell(f"{count} pods: plugin {before:.0f} MiB at the launch, {all_run:.0f} when all ran, {most:.0f} at most")
    tell(f"all ran {seconds:.0f} s after the launch")
