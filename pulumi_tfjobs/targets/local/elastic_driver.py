"""Horovod's elastic driver, for workers that the supervisor starts. Runs in the training environment's interpreter.

    python elastic_driver.py <plan.json> <handle of a socket to the supervisor>

Horovod's own classes decide who is in the world, when those who are left meet anew, when a worker is started and when
the run is over. What they ask for is ours: which hosts there are (elastic_places.py), and how a worker is started. The
supervisor does that, so that workers are its own children. The two talk in lines of JSON:

=========================================  =============================================================
``{"start": 1, "env": {"HOROVOD_RANK"…}}``  to the supervisor: start worker 1, or start it again
``{"end": 1}``                             end worker 1: it was told a rank that it will not have
``{"world_size": 2}``                      a world of so many workers is formed
``{"verdict": "failed", "reason": "…"}``   the run is over: ``succeeded``, or ``failed`` with what there is to add
``{"ended": 1, "code": 137}``              from the supervisor; 128 + n where a signal n ended the worker
=========================================  =============================================================
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.local.elastic_places import Places

# How long Horovod may take to judge the end once no worker lives.
JUDGE_SECONDS = 5.0
# Horovod's own default of how long there may be fewer workers than the least; HOROVOD_ELASTIC_TIMEOUT sets it.
TIMEOUT_SECONDS = 600.0
TICK_SECONDS = 0.1
LOG = logging.getLogger("tfjobs")
GLOBAL = "global"  # where the rendezvous keeps what all workers tell of themselves when they meet
SUCCEEDED = "succeeded"
FAILED = "failed"
LOOPBACK = "127.0.0.1"


class Channel:
    """The socket to the supervisor."""

    def __init__(self, handle: int) -> None:
        self._socket = socket.socket(fileno=handle)
        self._lock = threading.Lock()
        self._rest = b""

    def send(self, **message: Any) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """What has come within these seconds. Raises EOFError where the supervisor is gone."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return []
        data = self._socket.recv(65536)
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Run:
    """One start of the group: Horovod's driver on one side, the supervisor on the other."""

    def __init__(self, plan: dict[str, Any], places: Places, channel: Channel) -> None:
        self.size: int = plan["world_size"]
        self.timeout = timeout_of(plan["env"])
        self.places = places
        self.channel = channel
        self.driver: Any = None
        self.rendezvous: Any = None
        self._common: dict[str, str] = {}
        self._gave_up = ""
        self._below_since: float | None = None
        self._empty_since: float | None = None

    def go(self) -> None:
        """Start the workers, and stay until the supervisor ends this process: it does once the run is over."""
        self._start_driver()
        verdict = None
        while verdict is None:
            for message in self.channel.receive(TICK_SECONDS):
                self._note_end(message["ended"], message["code"])
            self._look_for_newcomers()
            verdict = self._verdict()
        self.channel.send(verdict=verdict[0], reason=verdict[1])
        while True:
            self.channel.receive(3600.0)

    def _start_driver(self) -> None:
        from horovod.runner.elastic.discovery import HostManager
        from horovod.runner.elastic.driver import ElasticDriver
        from horovod.runner.gloo_run import create_run_env_vars

        self.rendezvous = rendezvous = make_rendezvous(self.places, self.channel)
        discovery = make_discovery(self)
        HostManager.order_available_hosts = staticmethod(self.places.in_order)
        self.driver = ElasticDriver(
            rendezvous, discovery, self.places.minimum, self.places.maximum, timeout=max(1, int(self.timeout))
        )
        port = rendezvous.start(make_handler(self.driver, self.places))
        common = create_run_env_vars(LOOPBACK, ["lo"], port, elastic=True)
        self._common = {name: str(value) for name, value in common.items()}
        self.driver.start(self.size, self._create_worker)

    def _create_worker(self, slot: Any, _events: Any) -> tuple[int, float]:
        """For Horovod, in a thread of its own: start a worker and wait for its end.

        The events would tell to end it: its host is gone, which never happens here to one that lives, or the run is
        over, and then the supervisor does it.
        """
        life, what = self.places.start(slot.hostname, slot.rank, self._variables(slot))
        if what == "start":
            self.channel.send(start=life.index, env=dict(life.env))
        elif what == "end":
            self.channel.send(end=life.index)
        life.ended.wait()
        return life.code, time.time()

    def _variables(self, slot: Any) -> dict[str, str]:
        from horovod.runner.gloo_run import create_slot_env_vars

        return {**self._common, **create_slot_env_vars(slot)}

    def _look_for_newcomers(self) -> None:
        from horovod.runner.common.util.hosts import SlotInfo

        newcomers, unwanted = self.places.tick()
        for life, rank, size in newcomers:
            slot = SlotInfo(
                life.host, rank=rank, local_rank=0, cross_rank=rank, size=size, local_size=1, cross_size=size
            )
            life.env = self._variables(slot)
            self.channel.send(start=life.index, env=dict(life.env))
        for life in unwanted:
            self.channel.send(end=life.index)

    def _note_end(self, index: int, code: int) -> None:
        outcome = self.places.ended(index, code)
        if outcome.again is not None:
            self.rendezvous.forget(outcome.again["HOROVOD_RANK"])
            self.channel.send(start=index, env=dict(outcome.again))
        self._gave_up = self._gave_up or outcome.give_up

    def _verdict(self) -> tuple[str, str] | None:
        now = time.monotonic()
        living, minimum = self.places.living, self.places.minimum
        if self._gave_up:
            return FAILED, self._gave_up
        if self.driver.finished():
            return self._horovods_verdict(living)
        self._below_since = None if living >= minimum else self._below_since or now
        if self._below_since is not None and now - self._below_since >= self.timeout:
            return FAILED, self._too_few(living)
        self._empty_since = None if living else self._empty_since or now
        if self._empty_since is not None and now - self._empty_since >= JUDGE_SECONDS:
            return (FAILED if self.places.failed else SUCCEEDED), "no worker is left"
        return None

    def _horovods_verdict(self, living: int) -> tuple[str, str]:
        if living:  # it waited for enough of them, and does not wait for the ends of those that are left
            return FAILED, self._too_few(living)
        results = self.driver.get_results()
        if results.error_message is not None:
            return FAILED, results.error_message
        failed = any(code for code, _ in results.worker_results.values())
        if not results.worker_results:
            failed = self.places.failed
        return (FAILED if failed else SUCCEEDED), ""

    def _too_few(self, living: int) -> str:
        return (
            f"{living} of at least {self.places.minimum} workers (minWorkers) for {self.timeout:g} s "
            "(HOROVOD_ELASTIC_TIMEOUT)"
        )


def timeout_of(env: Mapping[str, str]) -> float:
    """How long there may be fewer workers than the least."""
    try:
        return float(env["HOROVOD_ELASTIC_TIMEOUT"])
    except (KeyError, ValueError):
        return TIMEOUT_SECONDS


# Horovod's classes, with what is ours. Horovod is only in the training environment, so they are made when needed.


def make_rendezvous(places: Places, channel: Channel) -> Any:
    """Horovod's rendezvous server, on loopback alone; it tells of each world."""
    from horovod.runner.http.http_server import RendezvousHTTPServer, RendezvousServer

    class Server(RendezvousHTTPServer):  # type: ignore[misc]
        daemon_threads = True

    class Rendezvous(RendezvousServer):  # type: ignore[misc]
        def start(self, handler: Any) -> int:
            self._httpd = Server((LOOPBACK, 0), handler, 0)
            self._listen_thread = threading.Thread(target=self._httpd.serve_forever, args=(0.05,), daemon=True)
            self._listen_thread.start()
            return int(self._httpd.server_address[1])

        def init(self, slots: Any) -> None:
            super().init(slots)
            places.formed({slot.rank: slot.hostname for slot in slots})
            channel.send(world_size=len(slots))

        def forget(self, rank: str) -> None:
            """The worker of this rank is gone, and nobody may look for it where it said that it was."""
            with self._httpd.cache_lock:
                for key in (rank, f"rank_{rank}"):
                    self._httpd.cache.get(GLOBAL, {}).pop(key, None)

    return Rendezvous()


def make_handler(driver: Any, places: Places) -> Any:
    """Horovod's answers to what workers ask, and what is seen of the workers by it."""
    from horovod.runner.elastic.rendezvous import PUT_WORKER_ADDRESSES, create_rendezvous_handler

    # The last thing in which they meet; Horovod has process sets since 0.23.
    last = "cross_0_process_set" if importlib.util.find_spec("horovod.common.process_sets") else "cross_0"

    class Handler(create_rendezvous_handler(driver)):  # type: ignore[misc]
        def _put_value(self, scope: str, key: str, value: bytes) -> None:
            if scope == PUT_WORKER_ADDRESSES:
                check_plain(value)
                super()._put_value(scope, key, value)
                places.trains(key.partition(":")[0])
                return
            rank = key.rpartition("_")[2]
            if scope == GLOBAL and rank.isdigit():
                newcomer = places.newcomer(int(rank))
                if newcomer is not None:
                    LOG.info("worker-%d is ready to join as rank %s", newcomer.index, rank)
                    newcomer.gate.wait()
                    if not newcomer.admitted:
                        return
                if rank == key:
                    LOG.info("rank %s has come", rank)
                    places.joined(int(rank))
            super()._put_value(scope, key, value)

        def do_DELETE(self) -> None:  # noqa: N802 (a method of HTTP)
            """A worker has no more to learn in this scope."""
            scope, _, key = self.path.strip("/").partition("/")
            # Each worker is alone on its host, so that its rank across the hosts is its rank.
            if scope.startswith(last) and key.isdigit():
                LOG.info("rank %s has met the others", key)
                places.met(int(key))
            super().do_DELETE()

    return Handler


def check_plain(value: bytes) -> None:
    """Horovod unpickles what comes here, from whoever reaches the port: nothing may be in it that names code."""
    import base64
    import io
    import pickle

    class Plain(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise pickle.UnpicklingError(f"{module}.{name} in a worker's addresses")

    Plain(io.BytesIO(base64.b64decode(value))).load()


def make_discovery(run: Run) -> Any:
    """What hosts there are, for Horovod's driver, which asks every second."""
    from horovod.runner.elastic.discovery import HostDiscovery
    from horovod.runner.elastic.worker import HostUpdateResult

    class Discovery(HostDiscovery):  # type: ignore[misc]
        told_at = 0

        def find_available_hosts_and_slots(self) -> dict[str, int]:
            hosts = run.places.hosts()
            if run.driver is not None and run.places.nudges(run.driver.host_assignments):
                self._nudge()
            return hosts

        def _nudge(self) -> None:
            leader = run.driver.get_coordinator_info()
            client = None if leader is None else run.driver.get_worker_client(leader)
            if client is None:
                return
            # Horovod's workers pass over what is not newer than the last, and a clock may be set back.
            self.told_at = max(int(time.time()), self.told_at + 1)
            with contextlib.suppress(OSError, EOFError):  # it has ended, and the others will meet anew
                client.notify_hosts_updated(self.told_at, HostUpdateResult.added)

    return Discovery()


def main() -> None:
    """Drive one start of the group."""
    places_of = _own_places()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with open(sys.argv[1], encoding="utf-8") as stream:
        plan = json.load(stream)
    ask = plan["rendezvous"]
    places = places_of(start=plan["world_size"], minimum=ask["min_workers"], maximum=ask["max_workers"])
    with contextlib.suppress(EOFError):  # the supervisor is gone
        Run(plan, places, Channel(int(sys.argv[2]))).go()


def _own_places() -> type[Places]:
    """Our class, and no way from here to what lies beside us: Horovod must not find our queue.py as the library's, nor
    the packages that the plugin is installed with."""
    own = os.path.dirname(os.path.abspath(__file__))
    root = os.path.abspath(os.path.join(own, "..", "..", ".."))
    sys.path[:] = [path for path in sys.path if path != own]
    sys.path.append(root)
    from pulumi_tfjobs.targets.local.elastic_places import Places

    sys.path.remove(root)
    return Places


if __name__ == "__main__":
    main()
