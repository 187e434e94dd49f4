"""What every compute target must do, as classes that a target's tests inherit.

A target's tests give the fixture ``place`` (a :class:`Place`); everything else is here. Scripts are plain Python, so
that a run takes a moment. A script tells that it has come somewhere by making a file in its outputs, never by time.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import Any

import pytest

from pulumi_tfjobs.errors import LaunchFailed
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import Horovod, MultiWorker, ParameterServer
from pulumi_tfjobs.spec.state import RunState
from tests.conformance.place import Place, argvs_with, closing, files_with, plan_of, read, replica, until, write

SECRET = "correct horse battery staple"
FOR_EVER = "import signal\nwhile True: signal.pause()\n"


def contents(root: str) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below ``root`` with its time, and what a file holds."""
    found = {}
    for folder, _, names in os.walk(root):
        found[folder] = (os.stat(folder).st_mtime_ns, b"")
        for name in names:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if os.path.isfile(path):
                with open(path, "rb") as stream:
                    found[path] = (info.st_mtime_ns, stream.read())
            else:
                found[path] = (info.st_mtime_ns, b"")
    return found


class Lifecycle:
    """One process: from its launch to each of its ends."""

    async def test_success(self, place: Place) -> None:
        plan = plan_of(script_params=(("--epochs", ("3",)),), arguments=("extra",))
        state = await place.run(plan, "print('arguments', sys.argv[1:])")
        assert (state.phase, state.exit_code, state.reason) == (phases.SUCCEEDED, 0, "")
        assert replica(state, "worker-0").phase == phases.SUCCEEDED
        assert "arguments ['--epochs', '3', 'extra']" in place.log(state, "worker-0")
        assert state.created_at <= state.started_at <= state.finished_at  # type: ignore[operator]

    async def test_both_streams_are_in_the_log(self, place: Place) -> None:
        state = await place.run(plan_of(), "print('to stdout'); print('to stderr', file=sys.stderr)")
        assert {"to stdout", "to stderr"} <= set(place.log(state, "worker-0").split("\n"))

    async def test_exit_code_of_a_failure(self, place: Place) -> None:
        state = await place.run(plan_of(), "print('the last words'); sys.exit(3)")
        assert (state.phase, state.exit_code, state.first_failure) == (phases.FAILED, 3, "worker-0")
        assert "worker-0" in state.reason
        assert "3" in state.reason
        assert "the last words" in place.log(state, "worker-0")

    async def test_signal_of_a_failure(self, place: Place) -> None:
        state = await place.run(plan_of(), "os.kill(os.getpid(), 9)")
        assert (state.phase, state.exit_code, replica(state, "worker-0").signal) == (phases.FAILED, 137, 9)
        assert "SIGKILL" in state.reason

    async def test_stop(self, place: Place) -> None:
        folder = await place.launch(plan_of(), "open('outputs/here', 'w').close()\n" + FOR_EVER)
        await until(lambda: place.output(folder, "here") is not None, "the script runs")
        state = await place.target.stop(folder, 1)
        assert state is not None
        assert state.phase == phases.CANCELLED
        assert state.first_failure == ""
        assert replica(state, "worker-0").phase == "ended"
        assert place.alive(folder) == []
        assert await place.target.stop(folder, 1) == state, "a second stop changes nothing"

    async def test_a_script_may_tidy_up_when_it_is_stopped(self, place: Place) -> None:
        folder = await place.launch(
            plan_of(),
            """
            import signal
            def tidy(*_):
                open('outputs/tidied', 'w').close()
                sys.exit(0)
            signal.signal(signal.SIGTERM, tidy)
            open('outputs/here', 'w').close()
            while True: signal.pause()
            """,
        )
        await until(lambda: place.output(folder, "here") is not None, "the script runs")
        state = await place.target.stop(folder, 1)
        assert state is not None
        assert state.phase == phases.CANCELLED
        assert place.output(folder, "tidied") == ""

    async def test_a_script_that_will_not_stop_is_killed(self, place: Place) -> None:
        folder = await place.launch(
            plan_of(),
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('outputs/here', 'w').close()\n"
            + FOR_EVER,
        )
        await until(lambda: place.output(folder, "here") is not None, "the script runs")
        state = await place.target.stop(folder, 1, grace_seconds=0.2)
        assert state is not None
        assert (state.phase, replica(state, "worker-0").signal) == (phases.CANCELLED, 9)
        assert place.alive(folder) == []

    async def test_time_limit(self, place: Place) -> None:
        state = await place.run(plan_of(max_run_duration_seconds=0.5), FOR_EVER)
        assert state.phase == phases.TIMED_OUT
        assert "0.5 s" in state.reason
        assert "maxRunDurationSeconds" in state.reason

    async def test_a_second_launch_of_an_attempt_does_nothing(self, place: Place) -> None:
        plan = plan_of()
        script = "open('outputs/starts', 'a').write('x')\nopen('outputs/pid', 'w').write(str(os.getpid()))\n" + FOR_EVER
        folder = await place.launch(plan, script)
        await until(lambda: place.output(folder, "pid"), "the script runs")
        await asyncio.gather(*(place.target.launch(plan, folder, 1, place.interpreter, {}) for _ in range(3)))
        state = await place.target.state(folder, 1)
        assert state is not None
        assert not state.finished
        await place.target.stop(folder, 1)
        await place.target.launch(plan, folder, 1, place.interpreter, {})
        assert place.output(folder, "starts") == "x"

    async def test_launches_at_the_same_moment_start_one_run(self, place: Place) -> None:
        plan = plan_of()
        source = place.folder(plan.run_id).attempt(1).source
        os.makedirs(source)
        write(os.path.join(source, "train.py"), "open('outputs/starts', 'a').write('x')")
        folder = place.folder(plan.run_id)
        place.launched.append((folder, 1))
        await asyncio.gather(*(place.target.launch(plan, folder, 1, place.interpreter, {}) for _ in range(4)))
        assert (await place.end(folder)).phase == phases.SUCCEEDED
        assert place.output(folder, "starts") == "x"

    async def test_a_new_attempt_finds_the_checkpoints_of_the_last(self, place: Place) -> None:
        script = """
            path = os.path.join(os.environ['TFJOBS_CHECKPOINT_DIR'], 'step')
            if not os.path.exists(path):
                open(path, 'w').write('7'); sys.exit(1)
            print('resumed at', open(path).read(), 'in attempt', os.environ['TFJOBS_ATTEMPT'])
        """
        plan = plan_of()
        assert (await place.run(plan, script)).phase == phases.FAILED
        folder = await place.launch(plan, script, attempt=2)
        state = await place.end(folder, 2)
        assert (state.phase, state.attempt) == (phases.SUCCEEDED, 2)
        assert "resumed at 7 in attempt 2" in place.log(state, "worker-0")
        first = await place.target.state(folder, 1)
        assert first is not None
        assert first.phase == phases.FAILED, "the first attempt's record stays"

    async def test_an_unknown_attempt_is_not_an_error(self, place: Place) -> None:
        folder = place.folder("never-0123456789ab")
        assert await place.target.state(folder, 1) is None
        assert await place.target.stop(folder, 1) is None
        assert [state async for state in place.target.watch(folder, 1)] == []

    async def test_watch_tells_each_change_and_ends(self, place: Place) -> None:
        folder = await place.launch(
            plan_of(), "while not os.path.exists('outputs/go'): __import__('time').sleep(0.01)\n"
        )
        seen: list[RunState] = []
        async with closing(place.target.watch(folder, 1)) as states:
            async for state in states:
                seen.append(state)
                if state.phase == phases.RUNNING:
                    write(os.path.join(folder.outputs, "go"))
        assert [state.phase for state in seen][-1] == phases.SUCCEEDED
        assert phases.RUNNING in [state.phase for state in seen]
        assert [state.updated for state in seen] == sorted({state.updated for state in seen})

    async def test_a_finished_run_is_told_at_once(self, place: Place) -> None:
        folder = await place.launch(plan_of(), "pass")
        last = await place.end(folder)
        assert [state async for state in place.target.watch(folder, 1)] == [last]


class Looking:
    """What a preview asks: it is told the truth, and leaves no trace."""

    async def test_look_before_any_run(self, place: Place) -> None:
        assert await place.target.look(place.folder("never-0123456789ab"), 1) is None

    async def test_look_at_a_run_that_lives_and_then_has_ended(self, place: Place) -> None:
        folder = await place.launch(plan_of(), "open('outputs/here', 'w').close()\n" + FOR_EVER)
        await until(lambda: place.output(folder, "here") is not None, "the script runs")
        seen = await place.target.look(folder, 1)
        while seen is not None and seen.phase == phases.STARTING:  # a cluster tells of it a moment later
            await asyncio.sleep(0.05)
            seen = await place.target.look(folder, 1)
        assert seen is not None
        assert (seen.phase, seen.run_id, seen.attempt) == (phases.RUNNING, folder.run_id, 1)
        ended = await place.target.stop(folder, 1)
        before = contents(place.store)
        assert await place.target.look(folder, 1) == ended == await place.target.state(folder, 1)
        assert contents(place.store) == before

    async def test_headroom_before_any_run(self, place: Place) -> None:
        store = place.store
        before = contents(store)
        slots = place.target.capabilities().slots
        found = place.target.headroom(plan_of(), store)
        assert (found.slots, found.ahead, found.holders, found.trouble) == (slots, 0, 0, "")
        assert found.free in {None, slots}
        assert found.note(1) == ""
        assert contents(store) == before

    async def test_headroom_while_a_run_has_all_slots(self, place: Place) -> None:
        slots = place.target.capabilities().slots
        if slots is None or place.target.headroom(plan_of(), place.store).free is None:
            pytest.skip("the target has no slots, or cannot tell which are free")
        folder = await place.launch(
            plan_of(MultiWorker(workers=slots)),
            "open('outputs/' + os.environ['TFJOBS_REPLICA_INDEX'], 'w').close()\n" + FOR_EVER,
        )
        await until(lambda: place.output(folder, str(slots - 1)) is not None, "the run has its slots")
        found = place.target.headroom(plan_of(name="other"), place.store)
        assert (found.free, found.ahead, found.holders) == (0, 0, 1)
        assert found.note(1) == f"needs 1 {found.unit}, 0 free, 1 run in progress"
        await place.target.stop(folder, 1)
        before = contents(place.store)
        assert place.target.headroom(plan_of(name="other"), place.store).note(1) == ""
        assert contents(place.store) == before


class Surroundings:
    """What a script finds around it."""

    async def test_variables_are_merged(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OF_THE_USER", "kept")
        monkeypatch.setenv("CHANGED", "before")
        monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", SECRET)
        monkeypatch.setenv("PULUMI_ACCESS_TOKEN", SECRET)
        monkeypatch.setenv("TF_CONFIG", '{"of": "an outer run"}')
        plan = plan_of(environment_variables={"CHANGED": "after", "ADDED": "x y\n'z'"})
        state = await place.run(plan, "print(json.dumps(dict(os.environ)))")
        env = json.loads(place.log(state, "worker-0"))
        assert (env.get("OF_THE_USER", "kept"), env["CHANGED"], env["ADDED"]) == ("kept", "after", "x y\n'z'")
        assert {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_ACCESS_TOKEN", "TF_CONFIG"}.isdisjoint(env)
        assert (env["TFJOBS_RUN_ID"], env["TFJOBS_ATTEMPT"]) == (plan.run_id, "1")
        assert (env["TFJOBS_RANK"], env["TFJOBS_WORLD_SIZE"]) == ("0", "1")

    async def test_secrets_reach_the_script_and_nothing_else(self, place: Place) -> None:
        plan = plan_of(environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"}))
        folder = await place.launch(
            plan,
            f"assert os.environ['TOKEN'] == {SECRET[::-1]!r}[::-1]; open('outputs/here', 'w').close()\n" + FOR_EVER,
            {"TOKEN": SECRET},
        )
        await until(lambda: place.output(folder, "here") is not None, "the script has its secret")
        assert files_with(folder.root, SECRET) == []
        assert argvs_with(SECRET) == []
        state = await place.target.stop(folder, 1)
        assert SECRET not in json.dumps(state.to_json() if state is not None else {})
        assert files_with(folder.root, SECRET) == []

    async def test_folders_of_the_run(self, place: Place) -> None:
        folder = await place.launch(
            plan_of(),
            """
            open('outputs/model', 'w').write('m')
            open('logs/events', 'w').write('e')
            open(os.environ['TFJOBS_METRICS_FILE'], 'w').write('{}')
            for name in ('OUTPUT', 'LOG'):
                print(name, sorted(os.listdir(os.environ[f'TFJOBS_{name}_DIR'])))
            """,
        )
        state = await place.end(folder)
        assert "OUTPUT ['model']" in place.log(state, "worker-0")
        assert "LOG ['events']" in place.log(state, "worker-0")
        assert place.output(folder, "model") == "m"
        assert read(folder.metrics) == "{}"

    async def test_an_outputs_folder_that_the_source_brings_is_kept(self, place: Place) -> None:
        plan = plan_of()
        brought = os.path.join(place.folder(plan.run_id).attempt(1).source, "outputs")
        os.makedirs(brought)
        write(os.path.join(brought, "start.txt"), "brought")
        folder = await place.launch(plan, "print(open('outputs/start.txt').read()); open('outputs/new', 'w').close()")
        assert "brought" in place.log(await place.end(folder), "worker-0")
        assert (place.output(folder, "start.txt"), place.output(folder, "new")) == ("brought", "")

    async def test_a_cpu_job_sees_no_accelerator(self, place: Place) -> None:
        state = await place.run(plan_of(), "print('devices', os.environ.get('CUDA_VISIBLE_DEVICES'))")
        assert "devices -1" in place.log(state, "worker-0")

    async def test_a_plan_that_cannot_start_says_why(self, place: Place) -> None:
        place.interpreter = "/no/such/python"
        try:
            folder = await place.launch(plan_of(), "pass")
        except LaunchFailed as error:  # the target can tell at once
            said = str(error)
            assert await place.target.state(place.folder(plan_of().run_id), 1) is None
        else:
            state = await place.end(folder)
            assert state.phase == phases.FAILED
            said = state.reason
        assert re.search(r"/no/such/python.*To fix", said)


SERVER = """
    import socket, threading
    config = json.loads(os.environ['TF_CONFIG'])
    task, cluster = config['task'], config['cluster']
    host, _, port = cluster[task['type']][task['index']].rpartition(':')
    server = socket.create_server((host, int(port)))
    def reach(kind, index):
        host, _, port = cluster[kind][index].rpartition(':')
        while True:
            try:
                return socket.create_connection((host, int(port)), 30)
            except ConnectionRefusedError:
                pass
"""


class Groups:
    """More than one replica: who is told what, and who decides."""

    async def test_parameter_servers_that_never_exit_are_ended(self, place: Place) -> None:
        state = await place.run(
            plan_of(ParameterServer(workers=2, parameter_servers=1), success_policy="all_workers"),
            SERVER
            + """
    print('TF_CONFIG', json.dumps(config), flush=True)
    if task['type'] == 'ps':
        while True: server.accept()
    reach('ps', 0)
            """,
        )
        assert state.phase == phases.SUCCEEDED, state
        assert replica(state, "ps-0").phase == "ended"
        assert replica(state, "worker-0").phase == phases.SUCCEEDED
        configs = {}
        for each in state.replicas:
            line = next(line for line in place.log(state, each.name).split("\n") if line.startswith("TF_CONFIG "))
            configs[each.name] = json.loads(line.removeprefix("TF_CONFIG "))
            assert json.loads(each.tf_config) == configs[each.name]
        clusters = [config["cluster"] for config in configs.values()]
        assert all(cluster == clusters[0] for cluster in clusters)
        assert {kind: len(members) for kind, members in clusters[0].items()} == {"worker": 2, "ps": 1}
        assert len({address for members in clusters[0].values() for address in members}) == 3
        assert configs["worker-1"]["task"] == {"type": "worker", "index": 1}
        assert configs["ps-0"]["environment"] == "cloud"

    async def test_workers_of_multi_worker_find_each_other(self, place: Place) -> None:
        state = await place.run(
            plan_of(MultiWorker(workers=2)),
            SERVER + "\n    reach('worker', 1 - task['index'])\n    server.accept()\n    print('met')\n",
        )
        assert state.phase == phases.SUCCEEDED, state
        assert "met" in place.log(state, "worker-0")
        assert "met" in place.log(state, "worker-1")

    async def test_the_evaluator_is_in_no_cluster_of_others(self, place: Place) -> None:
        state = await place.run(
            plan_of(ParameterServer(workers=1, parameter_servers=1, chief=True, evaluator=True)),
            "print(os.environ['TF_CONFIG'])\nkind = json.loads(os.environ['TF_CONFIG'])['task']['type']\n"
            "if kind in ('ps', 'evaluator'):\n    " + FOR_EVER.replace("\n", "\n    "),
        )
        assert state.phase == phases.SUCCEEDED, state
        assert "evaluator" not in json.loads(replica(state, "chief-0").tf_config)["cluster"]
        assert json.loads(replica(state, "evaluator-0").tf_config)["task"] == {"type": "evaluator", "index": 0}
        assert replica(state, "evaluator-0").phase == "ended"

    async def test_a_lone_worker_gets_no_tf_config(self, place: Place) -> None:
        state = await place.run(plan_of(), "print('TF_CONFIG' in os.environ)")
        assert place.log(state, "worker-0").strip() == "False"
        assert replica(state, "worker-0").tf_config == ""

    async def test_one_failed_member_ends_the_group(self, place: Place) -> None:
        plan = plan_of(MultiWorker(workers=3))
        folder = await place.launch(
            plan,
            "index = int(os.environ['TFJOBS_REPLICA_INDEX'])\nopen(f'outputs/{index}', 'w').close()\n"
            "if index == 1:\n"
            "    while len(os.listdir('outputs')) < 3: pass\n"
            "    sys.exit(4)\n" + FOR_EVER,
        )
        state = await place.end(folder)
        assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "worker-1", 4)
        assert [each.phase for each in state.replicas] == ["ended", "failed", "ended"]
        assert place.alive(folder) == []

    async def test_the_chief_decides(self, place: Place) -> None:
        state = await place.run(
            plan_of(ParameterServer(workers=1, parameter_servers=1, chief=True)),
            """
            kind = os.environ['TFJOBS_REPLICA_TYPE']
            if kind == 'worker':
                sys.exit(5)
            if kind == 'ps':
                import signal; signal.pause()
            # The chief goes on after the worker has failed, and succeeds.
            import time
            time.sleep(0.3)
            """,
        )
        assert (state.phase, state.exit_code) == (phases.SUCCEEDED, 0), state
        assert replica(state, "worker-0").phase == phases.FAILED

    async def test_a_failed_parameter_server_fails_the_run(self, place: Place) -> None:
        state = await place.run(
            plan_of(ParameterServer(workers=1, parameter_servers=2)),
            "if os.environ['TFJOBS_REPLICA_TYPE'] + os.environ['TFJOBS_REPLICA_INDEX'] == 'ps1': sys.exit(6)\n"
            + FOR_EVER,
        )
        assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "ps-1", 6)
        assert replica(state, "worker-0").phase == "ended"

    @pytest.mark.parametrize(("policy", "expected"), [("default", "ended"), ("all_workers", "succeeded")])
    async def test_success_policy(self, place: Place, policy: Any, expected: str) -> None:
        plan = plan_of(ParameterServer(workers=2, parameter_servers=1), success_policy=policy)
        folder = await place.launch(
            plan,
            """
            import time
            if os.environ['TFJOBS_REPLICA_TYPE'] == 'ps' : time.sleep(1000)
            open('outputs/started', 'w').close()
            if os.environ['TFJOBS_REPLICA_INDEX'] == '1':
                while not os.path.exists('outputs/go'): time.sleep(0.01)
            """,
        )
        if policy == "all_workers":
            await until(lambda: place.output(folder, "started") is not None, "a worker has started")
            async with closing(place.target.watch(folder, 1)) as states:
                async for state in states:
                    assert not state.finished, "worker 0 alone must not decide"
                    if state.replicas and replica(state, "worker-0").phase == phases.SUCCEEDED:
                        break
            write(os.path.join(folder.outputs, "go"))
        state = await place.end(folder)
        assert state.phase == phases.SUCCEEDED
        assert replica(state, "worker-1").phase == expected

    async def test_ranks(self, place: Place) -> None:
        plan = plan_of(Horovod(nodes=2, processes_per_node=2, controller="mpi"))
        assert plan.hostfile == "node-0 slots=2\nnode-1 slots=2\n"
        assert [(each.node, each.local_rank) for each in plan.replicas] == [(0, 0), (0, 1), (1, 0), (1, 1)]


class NothingLeft:
    """Processes that a script leaves behind end with the run."""

    @pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "os.kill(os.getpid(), 9)"])
    async def test_children_of_a_script(self, place: Place, ending: str) -> None:
        folder = await place.launch(
            plan_of(),
            f"""
            import subprocess
            child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])
            open('outputs/child', 'w').write(str(child.pid))
            {ending}
            """,
        )
        await place.end(folder)
        assert place.output(folder, "child")
        assert place.alive(folder) == []

    async def test_a_script_that_makes_daemons(self, place: Place) -> None:
        folder = await place.launch(
            plan_of(),
            """
            import signal
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    signal.signal(signal.SIGHUP, signal.SIG_IGN)
                    for handle in range(3): os.close(handle)
                    open('outputs/daemon', 'w').write(str(os.getpid()))
                    while True: signal.pause()
                os._exit(0)
            os.wait()
            while not os.path.exists('outputs/daemon'): pass
            """,
        )
        state = await place.end(folder)
        assert state.phase == phases.SUCCEEDED
        assert place.output(folder, "daemon")
        assert place.alive(folder) == []
