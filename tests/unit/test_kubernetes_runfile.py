"""A run's configuration comes back from its ConfigMap as it was, however many replicas it has."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.targets.base import Capabilities
from pulumi_tfjobs.targets.kubernetes.jobset import HOST
from pulumi_tfjobs.targets.kubernetes.objects import config_map, hosts_of, run_of
from pulumi_tfjobs.targets.kubernetes.runfile import read, read_folder
from tests.unit.jobs import plan_of
from tests.unit.kubernetes_requests import JOBS, request_of

# What the API server takes is a MiB for all data; etcd's limit is a little more.
MOST_BYTES = 1 << 20
UNLIMITED = Capabilities(slots=None, gpus=None, controllers=frozenset({"gloo", "mpi"}))
MANY: dict[str, dict[str, Any]] = {
    "1,000 workers": {"distribution": {"kind": "multiWorker", "workers": 1000}},
    "800 workers, 200 servers": {"distribution": {"kind": "parameterServer", "workers": 800, "parameterServers": 200}},
    "2,000 ranks": {"distribution": {"kind": "horovod", "nodes": 250, "processesPerNode": 8}},
}


@pytest.mark.parametrize("job", [*JOBS, *MANY])
def test_it_comes_back_whole(job: str, tmp_path: Path) -> None:
    plan = plan_of(JOBS.get(job) or MANY.get(job) or {}, capabilities=UNLIMITED)
    request = replace(request_of({}), plan=plan, run_id=plan.run_id)
    hosts = hosts_of(request, HOST)
    body = json.loads(json.dumps(config_map(request, hosts)))
    files = {
        **{name: text.encode() for name, text in body.get("data", {}).items()},
        **{name: base64.b64decode(text) for name, text in body.get("binaryData", {}).items()},
    }
    assert sum(len(content) for content in files.values()) < MOST_BYTES / 2
    wanted = json.loads(json.dumps(run_of(request, hosts)))
    assert read(body) == wanted
    for name, content in files.items():  # as a pod sees them
        (tmp_path / name).write_bytes(content)
    assert read_folder(str(tmp_path)) == wanted
