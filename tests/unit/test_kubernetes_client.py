"""The client against a server that fails at exact places."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.targets.kubernetes import credentials, transport
from pulumi_tfjobs.targets.kubernetes.api import CONFIG_MAPS, JOB_SETS, PODS, Api
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.failures import AlreadyExists, Refused, Unreadable
from pulumi_tfjobs.targets.kubernetes.options import Options
from tests.helpers.kube_server import KubeServer, kube_server, kubeconfig, options, until
from tests.helpers.silent_server import self_signed


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    async with kube_server() as made:
        yield made


@pytest.fixture
async def connection(server: KubeServer) -> AsyncIterator[Connection]:
    async with await Connection.open(options(kubeconfig(server.address))) as made:
        yield made


def config_map(name: str, **more: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": more}, "data": {}}


async def test_objects_come_and_go(server: KubeServer, connection: Connection) -> None:
    assert connection.server == server.address
    assert connection.namespace == "team"
    made = await connection.create(CONFIG_MAPS, "team", config_map("a", run="x"))
    assert (await connection.get(CONFIG_MAPS, "team", "a")) == made
    await connection.create(CONFIG_MAPS, "team", config_map("b", run="y"))
    assert [item["metadata"]["name"] for item in await connection.list(CONFIG_MAPS, "team", "run=y")] == ["b"]
    patched = await connection.patch(CONFIG_MAPS, "team", "a", {"data": {"key": "value"}})
    assert patched["data"] == {"key": "value"}
    assert server.requests("PATCH")[0].headers["Content-Type"] == "application/merge-patch+json"
    assert not await connection.delete(CONFIG_MAPS, "team", "a", uid="of another one")
    assert await connection.delete(CONFIG_MAPS, "team", "a", uid=made["metadata"]["uid"])
    assert await connection.get(CONFIG_MAPS, "team", "a") is None
    assert not await connection.delete(CONFIG_MAPS, "team", "a")
    assert server.requests("GET")[0].headers["Authorization"] == "Bearer secret"


async def test_a_large_object_arrives(server: KubeServer, connection: Connection) -> None:
    """A part of a source is more than a MiB in JSON: aiohttp would warn, and warnings are errors here."""
    await connection.create(CONFIG_MAPS, "team", {**config_map("part"), "binaryData": {"part-0": "A" * 1_300_000}})
    found = await connection.get(CONFIG_MAPS, "team", "part")
    assert found is not None
    assert len(found["binaryData"]["part-0"]) == 1_300_000


async def test_a_list_of_many_pages_begins_anew_when_its_rest_is_of_another_time(
    server: KubeServer, connection: Connection
) -> None:
    for index in range(600):
        await server.put("pods", {"metadata": {"name": f"pod-{index}"}})
    server.fault("continue=", status=410, reason="Expired")
    found = await connection.list(PODS, "team")
    assert [item["metadata"]["name"] for item in found] == [f"pod-{index}" for index in range(600)]
    assert len(server.requests("GET")) == 8


async def test_only_the_server_itself_can_say_that_an_object_is_gone(
    server: KubeServer, connection: Connection
) -> None:
    """A proxy on the way, or a cluster without JobSet, is not to be taken for a run that was deleted."""
    server.fault("GET /apis", status=404, message="the server could not find the requested resource", reason="NotFound")
    with pytest.raises(Unreadable, match=r"has no JobSet of jobset.x-k8s.io/v1alpha2"):
        await connection.get(JOB_SETS, "team", "a")
    with pytest.raises(TargetUnavailable):
        await connection.get(Api("no such", "", "group", "Group"), "team", "a")


async def test_a_short_outage_is_not_noticed(server: KubeServer, connection: Connection) -> None:
    await server.put("configmaps", config_map("a"))
    server.fault("GET", drop=True, times=2)
    server.fault("GET", status=503, times=2)
    assert await connection.get(CONFIG_MAPS, "team", "a")


async def test_an_outage_ends_in_an_error_that_says_nothing_of_the_run(
    server: KubeServer, connection: Connection
) -> None:
    server.fault("GET", status=500, times=99, message="etcdserver: no leader")
    began = time.monotonic()
    with pytest.raises(TargetUnavailable, match=r"etcdserver: no leader.*This says nothing about the run"):
        await connection.get(CONFIG_MAPS, "team", "a", patient=1.0)
    assert 0.9 <= time.monotonic() - began < 3
    assert 3 <= len(server.asked) < 10


async def test_a_server_that_holds_its_answer_back_is_given_up(server: KubeServer, connection: Connection) -> None:
    server.fault("GET", hold=asyncio.Event(), times=9)
    with pytest.raises(TargetUnavailable, match="did not answer in time"):
        await connection.get(CONFIG_MAPS, "team", "a", patient=0.5)


async def test_who_is_asked_to_come_back_later_does(server: KubeServer, connection: Connection) -> None:
    await server.put("configmaps", config_map("a"))
    server.fault("GET", status=429, headers={"Retry-After": "1"})
    began = time.monotonic()
    assert await connection.get(CONFIG_MAPS, "team", "a")
    assert time.monotonic() - began >= 1


async def test_a_creation_whose_answer_is_lost_is_found_to_exist(server: KubeServer, connection: Connection) -> None:
    server.fault("POST", after=True, drop=True)
    with pytest.raises(AlreadyExists):
        await connection.create(CONFIG_MAPS, "team", config_map("a"))
    assert await connection.get(CONFIG_MAPS, "team", "a")


async def test_a_missing_permission_is_named(server: KubeServer, connection: Connection) -> None:
    message = 'jobsets is forbidden: User "ci" cannot create resource "jobsets" in API group "jobset.x-k8s.io"'
    server.fault("POST", status=403, message=message, reason="Forbidden")
    with pytest.raises(LaunchFailed, match=r"ci may not create jobsets.jobset.x-k8s.io in namespace team") as caught:
        await connection.create(JOB_SETS, "team", {"metadata": {"name": "a"}})
    assert "kubectl auth can-i create jobsets.jobset.x-k8s.io -n team" in str(caught.value)
    server.fault("GET", status=403, message='User "ci" cannot list resource "nodes"', reason="Forbidden")
    with pytest.raises(Unreadable, match="ci may not list pods in the whole cluster") as unreadable:
        await connection.list(PODS, "")
    assert unreadable.value.status == 403


async def test_every_field_that_is_wrong_is_told(server: KubeServer, connection: Connection) -> None:
    causes = [{"field": "spec.a", "message": "Required value"}, {"field": "spec.b", "message": 'Invalid value: "x"'}]
    server.fault("POST", status=422, reason="Invalid", details={"causes": causes})
    with pytest.raises(Refused, match=r"spec.a: Required value\n  spec.b: Invalid value"):
        await connection.create(JOB_SETS, "team", {"metadata": {"name": "a"}})


async def test_a_namespace_that_is_missing_is_named(server: KubeServer, connection: Connection) -> None:
    details = {"name": "team", "kind": "namespaces"}
    server.fault("POST", status=404, reason="NotFound", message='namespaces "team" not found', details=details)
    with pytest.raises(Refused, match="kubectl create namespace team"):
        await connection.create(JOB_SETS, "team", {"metadata": {"name": "a"}})


async def test_a_token_that_has_expired_is_renewed_once(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_RENEW_AT_MOST_EVERY_SECONDS", 0.0)
    await server.put("configmaps", config_map("a"))
    plugin = _plugin(tmp_path)
    server.token = "token-1"
    async with await Connection.open(options(kubeconfig(server.address, exec=plugin))) as connection:
        assert await connection.get(CONFIG_MAPS, "team", "a")
        server.token = "token-2"
        found = await asyncio.gather(*(connection.get(CONFIG_MAPS, "team", "a") for _ in range(10)))
        assert all(found)
        assert (tmp_path / "runs").read_text() == "2"
        server.token = "of somebody else"
        with pytest.raises(Unreadable, match="does not accept the credentials"):
            await connection.get(CONFIG_MAPS, "team", "a")


async def test_a_token_that_says_when_it_ends_is_renewed_before(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_RENEW_AT_MOST_EVERY_SECONDS", 0.0)
    plugin = _plugin(tmp_path, expires=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 10)))
    async with await Connection.open(options(kubeconfig(server.address, exec=plugin))) as connection:
        await connection.list(PODS, "team")
    assert server.requests("GET")[0].headers["Authorization"] == "Bearer token-2"


async def test_who_waits_for_his_turn_asks_with_the_login_of_then(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_RENEW_AT_MOST_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(transport, "_AT_ONCE", 1)
    holding = asyncio.Event()
    server.fault("GET", hold=holding)
    async with await Connection.open(options(kubeconfig(server.address))) as connection:
        first = asyncio.ensure_future(connection.list(PODS, "team"))
        await until(lambda: server.asked)
        second = asyncio.ensure_future(connection.list(PODS, "team"))
        await asyncio.sleep(0)  # it waits for its turn
        await connection._renew(connection._session)
        holding.set()
        assert await asyncio.gather(first, second) == [[], []]


def test_two_threads_log_in_for_the_first_time() -> None:
    """Previews of two jobs do. The second begins when the first has imported a part of the official client."""
    program = """
import sys, threading
from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.credentials import Source, log_in

def ask():
    try:
        log_in(Source(path="/none"))
    except TargetUnavailable:
        pass

sys.setswitchinterval(0.0001)
threading.Thread(target=ask).start()
while (part := sys.modules.get("kubernetes.aio.client")) is None or part.__spec__._initializing:
    pass
ask()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


async def test_within_a_cluster_a_pod_logs_in_with_its_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_RENEW_AT_MOST_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(credentials, "_POD_FOLDER", str(tmp_path / "account"))
    certificate, key = self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    with pytest.raises(TargetUnavailable, match="inCluster is set, but this process has no credentials of a pod"):
        await Connection.open(Options(in_cluster=True))
    account = tmp_path / "account"
    account.mkdir()
    for name, text in {"token": "token-1", "ca.crt": certificate.read_text(), "namespace": "team"}.items():
        (account / name).write_text(text)
    async with kube_server(tls) as server:
        host, _, port = server.address.rpartition("/")[2].partition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        await server.put("configmaps", config_map("a"))
        server.token = "token-1"
        async with await Connection.open(Options(in_cluster=True)) as connection:
            assert (connection.server, connection.namespace) == (server.address, "team")
            assert await connection.get(CONFIG_MAPS, "team", "a")
            # The kubelet writes another token before the first one ends.
            (account / "token").write_text("token-2")
            server.token = "token-2"
            assert await connection.get(CONFIG_MAPS, "team", "a")


async def test_what_a_login_plugin_says_is_told_and_not_logged(
    server: KubeServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", "echo no card >&2; exit 3"],
    }
    with pytest.raises(TargetUnavailable, match=r"process returned 3.*no card"):
        await Connection.open(options(kubeconfig(server.address, exec=plugin)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("just\ntext", "no map"),
        ("a: [\n", "while parsing"),
        (yaml.safe_dump({**kubeconfig("http://x"), "current-context": "there"}), "there"),
    ],
)
async def test_a_kubeconfig_that_is_wrong_is_told(content: str, said: str) -> None:
    with pytest.raises(TargetUnavailable, match=f"(?s)kubeconfig.*{said}"):
        await Connection.open(options(content))


async def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match=f"{tmp_path}/config.*no such file"):
        await Connection.open(options(kubeconfig=f"{tmp_path}/config"))


async def test_kubeconfigs_from_the_environment(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(yaml.safe_dump(kubeconfig(server.address)))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none:{tmp_path}/config")
    async with await Connection.open(options(namespace="other")) as connection:
        assert (connection.server, connection.namespace) == (server.address, "other")


async def test_one_connection_for_all_who_ask_at_once(server: KubeServer) -> None:
    made = await asyncio.gather(*(Connection.open(options(kubeconfig(server.address))) for _ in range(20)))
    assert len(set(made)) == 1
    for connection in made:
        await connection.close()
    async with await Connection.open(options(kubeconfig(server.address))) as again:
        assert again is made[0]
        await again.list(PODS, "team")


async def test_a_thread_with_a_loop_of_its_own(server: KubeServer) -> None:
    """A connection that lingers is closed with its loop: pytest makes an error of one that is not."""

    async def ask() -> int:
        async with await Connection.open(options(kubeconfig(server.address))) as connection:
            return len(await connection.list(PODS, "team"))

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(ask())))
    thread.start()
    await until(lambda: not thread.is_alive())
    assert found == [0]


async def test_keys_and_certificates_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client key from a kubeconfig's text has to be a file for a moment: not longer, whoever is killed then."""
    certificate, key = self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    tls.load_cert_chain(certificate, key)
    tls.verify_mode = ssl.CERT_REQUIRED
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    async with kube_server(tls) as server:
        content = kubeconfig(
            server.address, **{"client-certificate-data": _data(certificate), "client-key-data": _data(key)}
        )
        with pytest.raises(TargetUnavailable, match=r"certificate of https://.* was not accepted"):
            async with await Connection.open(options(content)) as stranger:
                await stranger.list(PODS, "team")
        content["clusters"][0]["cluster"]["certificate-authority-data"] = _data(certificate)
        for context in ("here", ""):  # the second time the loader must not remember files that are gone
            async with await Connection.open(options(content, context=context)) as connection:
                assert await connection.list(PODS, "team") == []
        assert list(temporary.iterdir()) == []


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _plugin(folder: Path, expires: str = "") -> dict[str, object]:
    """A plugin that logs in: ``token-1`` the first time, ``token-2`` the second."""
    script = folder / "plugin.py"
    script.write_text(f"""
import json, pathlib
count = pathlib.Path({str(folder)!r}, "runs")
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
status = {{"token": f"token-{{number}}"}}
if {expires!r}:
    status["expirationTimestamp"] = {expires!r}
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}}))
""")
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-I", str(script)]}
