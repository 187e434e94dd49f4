"""The official client without the half of it that is not used, which is there all the same for who asks."""

from __future__ import annotations

import json
import subprocess
import sys

# What only the client that is not async needs.
_HEAVY = ("requests", "requests_oauthlib", "websocket", "kubernetes.config.kube_config", "kubernetes.dynamic.client")
_PROGRAM = f"""
import json, sys
from pulumi_tfjobs.targets.kubernetes.importing import official

finders = list(sys.meta_path)
client, config = official()
first = [name for name in {_HEAVY!r} if name in sys.modules]
import kubernetes
from kubernetes.client import V1Pod
import kubernetes.dynamic.client
import kubernetes.stream.ws_client
print(json.dumps([
    client.ApiClient.__module__,
    config.ConfigException.__module__,
    first,
    finders == sys.meta_path,
    kubernetes.config.load_kube_config.__module__,
    V1Pod.__module__,
    [name for name in {_HEAVY!r} if name not in sys.modules],
]))
"""


def test_what_is_not_used_is_not_loaded_and_can_be() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [
        "kubernetes.aio.client.api_client",
        "kubernetes.aio.config.config_exception",
        [],
        True,
        "kubernetes.config.kube_config",
        "kubernetes.client.models.v1_pod",
        [],
    ]
