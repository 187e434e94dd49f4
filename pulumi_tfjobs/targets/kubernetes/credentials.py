"""From a kubeconfig, or from inside a pod, to a client of the API that is logged in.

Everything here may block (files, plugins that log in): it runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.importing import official

NOT_INSTALLED = (
    "the Python package kubernetes (37 or later) is not installed where the plugin runs. "
    'To fix: pip install "pulumi-tfjobs[kubernetes]"'
)
_LOGIN_SECONDS = 60.0
_POD_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
# The official loader keeps its files in one table of the process, so only one thread may load at a time.
_loading = threading.Lock()


class Source(NamedTuple):
    """Where credentials come from. ``path``: a kubeconfig, or several as ``KUBECONFIG`` has them; ``content``: one as
    text or JSON, before ``path``; all empty: as kubectl finds them. ``namespace``: instead of the context's."""

    path: str = ""
    content: str = ""
    context: str = ""
    in_cluster: bool = False
    namespace: str = ""


class Login(NamedTuple):
    """A client that is logged in. ``expires``: until when, seconds since the epoch; None where that is not known."""

    client: Any
    server: str
    namespace: str
    expires: float | None


def source_of(options: Any) -> Source:
    """The part of the target's options that says which cluster and who."""
    held = (options.credentials or {}).get("kubeconfig")
    content = json.dumps(held, sort_keys=True) if isinstance(held, Mapping) else (held or "")
    return Source(
        options.kubeconfig or "", content, options.context or "", bool(options.in_cluster), options.namespace or ""
    )


def place_of(source: Source) -> str:
    """Where it leads to, in words, as far as that is known without reading a file. Never raises."""
    if not source.content:
        where = source.path or ("its own" if source.in_cluster else "default")
        return f"{where} {source.context}"
    import yaml

    with contextlib.suppress(yaml.YAMLError, LookupError, TypeError, StopIteration):
        found = yaml.safe_load(source.content)
        name = source.context or str(found["current-context"])
        context = _named(found["contexts"], name)["context"]
        return f"{_named(found['clusters'], context['cluster'])['cluster']['server']} {name}"
    return f"given {source.context}"


def _named(items: Any, name: str) -> Any:
    return next(item for item in items if item["name"] == name)


def log_in(source: Source) -> Login:
    """Read the configuration, run the plugin that logs in if there is one. Blocks. Raises TargetUnavailable."""
    try:
        import yaml

        client, config = official()
    except ImportError as error:
        raise TargetUnavailable(NOT_INSTALLED) from error
    configuration = client.Configuration()
    configuration.connection_pool_maxsize = 0  # logs are one connection each; who opens them bounds their number
    # Many clusters' own certificates lack extensions that Python 3.13 insists on and kubectl does not.
    configuration.disable_strict_ssl_verification = True
    # Of each of hundreds of streams so much is held at most (twice); long lines are put together by the reader.
    # And where the environment names no proxy, it is not searched for one (and for ~/.netrc) at each request.
    proxied = bool(urllib.request.getproxies_environment())
    configuration.client_session_kwargs = {"read_bufsize": 64 * 1024, "trust_env": proxied}
    with _loading, _quiet() as said, _folder() as folder:
        try:
            if _inside(source):
                namespace, expires = _load_inside(configuration), None
            else:
                namespace, expires = asyncio.run(_load(source, configuration, folder, said))
            api = client.ApiClient(configuration)
        except (
            config.ConfigException,
            yaml.YAMLError,
            OSError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise TargetUnavailable(_trouble(source, str(error) or type(error).__name__)) from error
    return Login(api, str(configuration.host), source.namespace or namespace or "default", expires)


def _inside(source: Source) -> bool:
    if source.in_cluster:
        return True
    if source.content or source.path or source.context:
        return False
    return "KUBERNETES_SERVICE_HOST" in os.environ and not any(map(os.path.isfile, _paths(source)))


def _load_inside(configuration: Any) -> str:
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader

    loader = InClusterConfigLoader(os.path.join(_POD_FOLDER, "token"), os.path.join(_POD_FOLDER, "ca.crt"))
    loader.load_and_set(configuration)
    with contextlib.suppress(OSError), open(os.path.join(_POD_FOLDER, "namespace"), encoding="utf-8") as file:
        return file.read().strip()
    return ""


def _paths(source: Source) -> list[str]:
    text = source.path or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return [os.path.expanduser(path) for path in text.split(os.pathsep) if path]


async def _load(source: Source, configuration: Any, folder: str, said: list[str]) -> tuple[str, float | None]:
    from kubernetes.aio.config import ConfigException
    from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

    if source.content:
        import yaml

        found = yaml.safe_load(source.content)
        if not isinstance(found, dict):
            raise ConfigException("its content is no map")
    else:
        paths = _paths(source)
        if not any(map(os.path.isfile, paths)):
            raise ConfigException("there is no such file")
        found = KubeConfigMerger(os.pathsep.join(paths)).config
    loader = KubeConfigLoader(
        found, active_context=source.context or None, config_base_path=None, temp_file_path=folder
    )
    try:
        await asyncio.wait_for(loader.load_and_set(configuration), _LOGIN_SECONDS)
    except asyncio.TimeoutError as error:
        raise ConfigException(f"the plugin that logs in did not end within {_LOGIN_SECONDS:.0f} s") from error
    if said and not configuration.api_key and not configuration.cert_file:
        raise ConfigException("; ".join(said))
    context = loader.current_context["context"]
    expiry = getattr(loader, "exec_plugin_expiry", None)
    return str(context.get("namespace") or ""), None if expiry is None else expiry.timestamp()


def _trouble(source: Source, why: str) -> str:
    if source.in_cluster:
        return (
            f"inCluster is set, but this process has no credentials of a pod ({why}). "
            "To fix: run Pulumi in a pod with a service account, or give a `kubeconfig`"
        )
    what = "the kubeconfig that was given" if source.content else f"the kubeconfig {', '.join(_paths(source))}"
    context = f", context {source.context}" if source.context else ""
    return (
        f"{what}{context} could not be used: {why}. To fix: check it with `kubectl config get-contexts` and "
        "`kubectl version`, or name another with `kubeconfig` and `context`"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """What the official client logs: not to the terminal, but to whoever has to tell why it failed."""
    logger = logging.getLogger("kubernetes")
    logger.propagate = False
    handler = _Listener()
    logger.addHandler(handler)
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder for keys that the TLS library reads from files only. They are gone as soon as they were read."""
    from kubernetes.aio.config import kube_config

    folder = tempfile.mkdtemp(prefix="tfjobs-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        files = kube_config._temp_files  # noqa: SLF001
        for key in [key for key, path in files.items() if path.startswith(folder)]:
            del files[key]
