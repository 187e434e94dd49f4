"""Horovod over MPI as an MPIJob of mpi-operator: mpirun, over ssh between real pods."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.environments.examples import default_spec
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import Horovod
from pulumi_tfjobs.targets.base import Silent
from tests.conformance.kubernetes_place import KubernetesPlace
from tests.conformance.place import files_with, plan_of, replica, until
from tests.conformance.suite import FOR_EVER
from tests.engine.harness import Project
from tests.kubernetes.cluster_jobs import Place
from tests.kubernetes.test_pulumi import ACCURACY, REPO, TRAINING_SECONDS
from tests.rig.cluster import Cluster

SECRET = "correct horse battery staple"
FOUR = Horovod(nodes=2, processes_per_node=2, controller="mpi")
TWO = Horovod(nodes=2, processes_per_node=1, controller="mpi")

pytestmark = [pytest.mark.slow, pytest.mark.training]


@pytest.fixture
def namespace(rig_node: Cluster) -> Iterator[str]:
    rig_node.add("mpi-operator")
    with rig_node.namespace() as name:
        yield name


@pytest.fixture
async def mpi(rig_node: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[KubernetesPlace]:
    """Where plain scripts are ranks: the interpreter is the one that has mpirun."""
    python = environments.build(default_spec(horovod=True), Silent())
    volumes = [dict(volume) for volume in rig_node.python_volumes(python)]
    place = KubernetesPlace(str(tmp_path), rig_node, namespace, engine="kubeflow", volumes=volumes)
    place.interpreter = python
    yield place
    await place.close()
    left = [pod for folder, attempt in place.launched for pod in place.alive(folder, attempt)]
    assert left == [], "pods outlived their run"


async def test_each_rank_is_a_replica(mpi: KubernetesPlace) -> None:
    state = await mpi.run(
        plan_of(
            FOUR,
            environment_variables={"GIVEN": "x y", "TOKEN": ""},
            secret_variables=frozenset({"TOKEN"}),
            script_params=(("--epochs", ("3",)),),
        ),
        """
        names = ('TFJOBS_RANK', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK', 'GIVEN')
        print(json.dumps([os.environ[name] for name in names] + sys.argv[1:] + [os.uname().nodename]))
        print('the token is', os.environ['TOKEN'])
        rank = os.environ['TFJOBS_RANK']
        with open(os.environ['TFJOBS_METRICS_FILE'], 'a') as stream:
            if rank == '0': stream.write('{"step": 1, "loss": 0.5}\\n')
        open('outputs/' + rank, 'w').close()
        # Lines of all ranks at once, longer than what mpirun passes on as a piece.
        for number in range(50):
            print(rank * 5000)
        """,
        {"TOKEN": SECRET},
    )
    assert (state.phase, state.exit_code, state.reason) == (phases.SUCCEEDED, 0, "")
    for rank in range(4):
        lines = mpi.log(state, f"worker-{rank}").splitlines()
        # What mpirun says itself is with the first.
        begun = next(number for number, line in enumerate(lines) if line.startswith('["'))
        assert rank == 0 or begun == 0
        first, token, *rest = lines[begun:]
        said = json.loads(first)
        assert said[:-1] == [str(rank), str(rank), "4", str(rank % 2), "x y", "--epochs", "3"]
        assert said[-1].endswith(f"worker-{rank // 2}")
        assert token == "the token is ***"
        assert rest == [str(rank) * 5000] * 50
        assert replica(state, f"worker-{rank}").phase == phases.SUCCEEDED
    folder = mpi.folder(state.run_id)
    assert all(mpi.output(folder, str(rank)) is not None for rank in range(4))
    assert files_with(folder.root, SECRET) == []


async def test_the_rank_whose_fault_it_was_is_named(mpi: KubernetesPlace) -> None:
    state = await mpi.run(
        plan_of(FOUR),
        """
        import time
        rank = os.environ['TFJOBS_RANK']
        if rank == '0':
            print('[1,0]<stderr>: Connection reset by peer', flush=True)
            open('outputs/gone', 'w').close()
            sys.exit(1)
        while not os.path.exists('outputs/gone'): time.sleep(0.01)
        if rank == '3': sys.exit(7)
        """
        + FOR_EVER.replace("\n", "\n        "),
    )
    assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "worker-3", 7), state
    assert state.reason == "worker-3 exited with code 7"
    assert [each.phase for each in state.replicas] == ["failed", "ended", "ended", "failed"]


async def test_a_worker_that_somebody_deletes(mpi: KubernetesPlace) -> None:
    folder = await mpi.launch(plan_of(TWO), "open('outputs/' + os.environ['TFJOBS_RANK'], 'w').close()\n" + FOR_EVER)
    for rank in ("0", "1"):
        await until(lambda: mpi.output(folder, rank) is not None, "the rank runs")  # noqa: B023
    mpi.rig.api.delete(f"/api/v1/namespaces/{mpi.namespace}/pods/{folder.run_id}-1-worker-1", grace=5)
    state = await mpi.end(folder)
    assert (state.phase, state.first_failure) == (phases.FAILED, "")
    assert state.reason == "worker-1 was ended from outside: somebody has deleted its pod"


async def check_that_ranks_may_tidy_up(mpi: KubernetesPlace) -> None:
    """Of a run that is stopped, whichever way mpirun has to its workers."""
    folder = await mpi.launch(
        plan_of(TWO),
        """
        import signal, time
        rank = os.environ['TFJOBS_RANK']
        def tidy(*_):
            time.sleep(1.5)  # longer than mpirun gives a rank by itself
            open('outputs/tidied-' + rank, 'w').close()
            sys.exit(0)
        signal.signal(signal.SIGTERM, tidy)
        open('outputs/here-' + rank, 'w').close()
        while True: signal.pause()
        """,
    )
    for rank in ("0", "1"):
        await until(lambda: mpi.output(folder, f"here-{rank}") is not None, "the rank runs")  # noqa: B023
    state = await mpi.target.stop(folder, 1)
    assert state is not None
    assert (state.phase, state.first_failure) == (phases.CANCELLED, "")
    assert [mpi.output(folder, f"tidied-{rank}") for rank in "01"] == ["", ""]
    assert mpi.alive(folder) == []


async def test_ranks_may_tidy_up_when_the_run_is_stopped(mpi: KubernetesPlace) -> None:
    await check_that_ranks_may_tidy_up(mpi)


async def test_what_keeps_a_worker_from_starting_is_told(mpi: KubernetesPlace) -> None:
    mpi.change(sourcePath="/no/such/folder")
    state = await mpi.run(plan_of(TWO), "print('begun')")
    assert state.phase == phases.FAILED
    assert "could not start" in state.reason
    assert "no folder /no/such/folder (sourcePath)" in state.reason


def test_horovod_over_mpi_learns_the_digits(project: Project, training_place: Place) -> None:
    place = training_place
    place.rig.add("mpi-operator")
    properties = {
        "computeTarget": place.target(engine="kubeflow"),
        "sourceDirectory": str(REPO / "programs" / "digits" / "horovod"),
        "entryScript": "train.py",
        "scriptParams": {"--epochs": 15, "--learning-rate": 0.01},
        "distribution": {"kind": "horovod", "nodes": 2, "processesPerNode": 1, "controller": "mpi"},
        "userManaged": True,
        "interpreterPath": place.python,
    }
    project.yaml(
        {"digits": {"type": "tfjobs:index:TensorFlow", "properties": properties}},
        {"accuracy": '${digits.metrics["accuracy"]}', "logs": "${digits.logs}"},
    )
    project.up(deadline=TRAINING_SECONDS)
    outputs = project.outputs()
    assert outputs["accuracy"] >= ACCURACY
    assert set(outputs["logs"]) == {"worker-0", "worker-1"}
    assert all(Path(log).read_text() for log in outputs["logs"].values())
    assert project.preview().changed == {}
