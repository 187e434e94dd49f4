"""Layout of a run's folder. One place that says where things are; standard library only (the supervisor reads it).

::

    runs/<run id>/
      run.json            the record: inputs (no secrets), digest, job, created
      outputs/            what the script keeps          (TFJOBS_OUTPUT_DIR, ./outputs)
      checkpoints/        what an attempt resumes from    (TFJOBS_CHECKPOINT_DIR)
      logs/               the script's own logs           (TFJOBS_LOG_DIR, ./logs), TensorBoard event files
      metrics.jsonl       scalars written by the script   (TFJOBS_METRICS_FILE)
      curves.json         every scalar's curve, written when an attempt ends
      attempts/<n>/
        plan.json         what is started (no secrets, no addresses)
        state.json        what the supervisor knows, replaced atomically
        handle.json       where it is at a cluster, instead of a supervisor (targets/kubernetes/handle.py; beside it
                          collector.json and restarts.json: what was collected, and started again)
        supervisor.lock   held (flock) as long as the supervisor lives
        supervisor.log    the supervisor's own log
        stop              present once somebody asked to stop the run; holds the reason
        src/              the replicas' working directory: a private copy of the source snapshot
        ended/            how its pods have ended, where a cluster's pods keep that here (targets/kubernetes/ended.py)
        restarts/<k>/     logs of the replicas as they were before restart k (retries, restarted parameter servers)
        tmp               link to the replicas' TMPDIR, there as long as they run
        replicas/<type>-<index>.log       what a replica printed; of a long log the head
        replicas/<type>-<index>.log.tail.<k>  and pieces of the tail, k being the place of the first byte in all that
                                   was printed (targets/logfiles.py reads them as one)

Beside ``runs/`` is ``slots/``: the tickets of runs that wait for slots or hold some (targets/local/queue.py).
"""

from __future__ import annotations

import os


class AttemptFolder:
    """One attempt's files. Paths only; nothing is created by naming them."""

    def __init__(self, root: str, number: int) -> None:
        self.root = root
        self.number = number

    def _at(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    @property
    def plan(self) -> str:
        return self._at("plan.json")

    @property
    def state(self) -> str:
        return self._at("state.json")

    @property
    def lock(self) -> str:
        return self._at("supervisor.lock")

    @property
    def supervisor_log(self) -> str:
        return self._at("supervisor.log")

    @property
    def stop(self) -> str:
        return self._at("stop")

    @property
    def source(self) -> str:
        return self._at("src")

    @property
    def temporary(self) -> str:
        return self._at("tmp")

    @property
    def replicas(self) -> str:
        return self._at("replicas")

    def replica_log(self, name: str) -> str:
        return self._at("replicas", f"{name}.log")

    def restart(self, number: int) -> str:
        return self._at("restarts", str(number))


class RunFolder:
    """A run's files. Paths only; nothing is created by naming them."""

    def __init__(self, root: str) -> None:
        self.root = root

    def _at(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    @property
    def run_id(self) -> str:
        return os.path.basename(self.root)

    @property
    def record(self) -> str:
        return self._at("run.json")

    @property
    def outputs(self) -> str:
        return self._at("outputs")

    @property
    def checkpoints(self) -> str:
        return self._at("checkpoints")

    @property
    def logs(self) -> str:
        return self._at("logs")

    @property
    def metrics(self) -> str:
        return self._at("metrics.jsonl")

    @property
    def curves(self) -> str:
        return self._at("curves.json")

    @property
    def slots(self) -> str:
        """The folder of tickets for slots, common to all runs of the store."""
        return os.path.join(os.path.dirname(os.path.dirname(self.root)), "slots")

    def attempt(self, number: int) -> AttemptFolder:
        return AttemptFolder(self._at("attempts", str(number)), number)

    def attempts(self) -> list[int]:
        """Numbers of the attempts that exist, ascending."""
        try:
            names = os.listdir(self._at("attempts"))
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdigit())
