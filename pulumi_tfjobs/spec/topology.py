"""How a job is distributed: the typed form and the flat arguments of Azure ML become one Distribution."""

from __future__ import annotations

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import paths
from pulumi_tfjobs.spec.args import HorovodArgs, JobArgs, MultiWorkerArgs, ParameterServerArgs
from pulumi_tfjobs.spec.model import Distribution, Horovod, MultiWorker, ParameterServer, Single

FLAT = {
    "nodeCount": "node_count",
    "processCountPerNode": "process_count_per_node",
    "workerCount": "worker_count",
    "parameterServerCount": "parameter_server_count",
    "distributedBackend": "distributed_backend",
}
"""The flat arguments: property -> attribute of JobArgs."""

# Field of a Distribution -> the flat argument that says it, by backend.
FLAT_NAMES: dict[str, dict[str, str]] = {
    "horovod": {"nodes": "nodeCount", "processes_per_node": "processCountPerNode"},
    "parameterServer": {"workers": "workerCount", "parameter_servers": "parameterServerCount"},
    "multiWorker": {"workers": "workerCount"},
    "single": {},
}

_PROPERTIES = {
    "processes_per_node": "processesPerNode",
    "parameter_servers": "parameterServers",
    "min_workers": "minWorkers",
    "max_workers": "maxWorkers",
}
_ROLE = {"workerCount": "workers", "parameterServerCount": "parameter servers"}


def resolve(args: JobArgs, unknown: frozenset[str], problems: list[InputProblem]) -> Distribution:
    """The job's distribution; with problems, the nearest to what was meant."""
    flat = {key: getattr(args, attribute) for key, attribute in FLAT.items() if getattr(args, attribute) is not None}
    if args.distribution is None:
        return _from_flat(args, unknown, problems)
    if flat:
        problems.append(
            InputProblem(
                "distribution",
                f"it is given together with {', '.join(flat)}",
                "one form: the typed distribution, or the flat arguments",
                f"remove {', '.join(flat)}, or remove distribution",
            )
        )
    return _from_typed(args, unknown, problems)


def property_name(field: str) -> str:
    """A field of a Distribution as a property: ``parameter_servers`` -> ``parameterServers``."""
    return _PROPERTIES.get(field, field)


def process_counts(distribution: Distribution) -> dict[str, int]:
    """Replica type -> how many processes; of an elastic job, how many there can be at once."""
    if isinstance(distribution, Horovod):
        return {"worker": distribution.max_workers or distribution.nodes * distribution.processes_per_node}
    if isinstance(distribution, Single):
        return {"worker": 1}
    counts = {"chief": int(distribution.chief), "worker": distribution.workers}
    if isinstance(distribution, ParameterServer):
        counts["ps"] = distribution.parameter_servers
    counts["evaluator"] = int(distribution.evaluator)
    return {name: count for name, count in counts.items() if count > 0}


def slots_needed(distribution: Distribution) -> int:
    """How many slots the job takes: one for each process, parameter servers excepted (they use no accelerator)."""
    return sum(count for name, count in process_counts(distribution).items() if name != "ps")


def _from_typed(args: JobArgs, unknown: frozenset[str], problems: list[InputProblem]) -> Distribution:
    given = args.distribution
    if isinstance(given, HorovodArgs):
        return _horovod(given, unknown, problems)
    if isinstance(given, ParameterServerArgs):
        server = ParameterServer(
            workers=given.workers,
            parameter_servers=given.parameter_servers,
            chief=given.chief,
            evaluator=given.evaluator,
        )
        _check_ps(server, "distribution.workers", "distribution.parameterServers", unknown, problems)
        return server
    if isinstance(given, MultiWorkerArgs):
        workers = MultiWorker(workers=given.workers, chief=given.chief, evaluator=given.evaluator)
        _check_workers(workers, "distribution.workers", unknown, problems)
        return workers
    return Single()


def _horovod(given: HorovodArgs, unknown: frozenset[str], problems: list[InputProblem]) -> Horovod:
    """Elastic where ``minWorkers`` or ``maxWorkers`` is given; the other has its default then."""
    start = given.nodes * given.processes_per_node
    low, high = given.min_workers, given.max_workers
    if low is not None or high is not None:
        low, high = low or 1, high or start
        _check_elastic(given, low, high, unknown, problems)
    return Horovod(
        nodes=given.nodes,
        processes_per_node=given.processes_per_node,
        controller=given.controller,
        min_workers=low,
        max_workers=high,
    )


def _check_elastic(
    given: HorovodArgs, low: int, high: int, unknown: frozenset[str], problems: list[InputProblem]
) -> None:
    def hidden(*names: str) -> bool:
        return any(paths.touches(f"distribution.{name}", unknown) for name in names)

    start = given.nodes * given.processes_per_node
    product = f"{given.nodes} times {given.processes_per_node}"
    if given.controller != "gloo" and not hidden("controller"):
        problems.append(
            InputProblem(
                "distribution.controller",
                f"it is {given.controller}, and minWorkers or maxWorkers make the job elastic",
                "gloo: an mpirun ends with the first rank that it loses",
                "remove controller, or remove minWorkers and maxWorkers",
            )
        )
    if given.min_workers is not None and given.max_workers is not None and low > high:
        if not hidden("minWorkers", "maxWorkers"):
            problems.append(
                InputProblem(
                    "distribution.minWorkers",
                    f"it is {low}, and maxWorkers is {high}",
                    f"at most maxWorkers ({high})",
                    f"say minWorkers: {high}, or maxWorkers: {low}",
                )
            )
        return  # no number at the start lies between them
    if hidden("nodes", "processesPerNode"):
        return
    path = "distribution.processesPerNode" if given.processes_per_node > given.nodes else "distribution.nodes"
    if start < low and not hidden("minWorkers"):
        problems.append(
            InputProblem(
                path,
                f"nodes times processesPerNode is {product}, and minWorkers is {low}",
                f"at least {low} workers at the start",
                f"raise nodes or processesPerNode, or say minWorkers: {start}",
            )
        )
    if start > high and not hidden("maxWorkers"):
        problems.append(
            InputProblem(
                path,
                f"nodes times processesPerNode is {product}, and maxWorkers is {high}",
                f"at most {high} workers at the start",
                f"lower nodes or processesPerNode, or say maxWorkers: {start}",
            )
        )


def _from_flat(args: JobArgs, unknown: frozenset[str], problems: list[InputProblem]) -> Distribution:
    backend = args.distributed_backend
    if backend is None:
        if not paths.touches("distributedBackend", unknown) and not paths.touches("distribution", unknown):
            problems.extend(_without_backend(args))
        return Single()
    if backend == "mpi":
        _refuse(args, backend, ("workerCount", "parameterServerCount"), problems)
        return Horovod(nodes=args.node_count or 1, processes_per_node=args.process_count_per_node or 1)
    if (args.process_count_per_node or 1) > 1:
        problems.append(
            InputProblem(
                "processCountPerNode",
                f"it is {args.process_count_per_node} with distributedBackend {backend}",
                "1: only Horovod has several processes on a node",
                'raise workerCount, or say distributedBackend: "mpi"',
            )
        )
    if backend == "ps":
        server = ParameterServer(
            workers=1 if args.worker_count is None else args.worker_count,
            parameter_servers=1 if args.parameter_server_count is None else args.parameter_server_count,
        )
        _check_ps(server, "workerCount", "parameterServerCount", unknown, problems)
        return server
    _refuse(args, backend, ("parameterServerCount",), problems)
    count = args.worker_count if args.worker_count is not None else args.node_count
    if count is None:
        if not any(paths.touches(key, unknown) for key in ("workerCount", "nodeCount")):
            problems.append(
                InputProblem(
                    "workerCount",
                    "it is missing, and distributedBackend is multi_worker",
                    "how many workers train in step",
                    "give workerCount: 2 (or nodeCount)",
                )
            )
        count = 2
    workers = MultiWorker(workers=count)
    _check_workers(workers, "workerCount", unknown, problems)
    return workers


def _without_backend(args: JobArgs) -> list[InputProblem]:
    advice = {
        "nodeCount": '"mpi" (Horovod) or "multi_worker" (MultiWorkerMirroredStrategy)',
        "processCountPerNode": '"mpi" (Horovod)',
        "workerCount": '"ps" (parameter servers) or "multi_worker" (MultiWorkerMirroredStrategy)',
        "parameterServerCount": '"ps" (parameter servers)',
    }
    found = []
    for key, backends in advice.items():
        count = getattr(args, FLAT[key]) or 0
        if count > (0 if key == "parameterServerCount" else 1):
            found.append(
                InputProblem(
                    key,
                    f"it is {count}, but no distributedBackend says how the processes work together",
                    "a distributedBackend",
                    f"say distributedBackend: {backends}",
                )
            )
        elif key == "workerCount" and args.worker_count == 0:
            found.append(InputProblem(key, "it is 0", "at least 1 worker", "remove it for one process"))
    return found


def _refuse(args: JobArgs, backend: str, keys: tuple[str, ...], problems: list[InputProblem]) -> None:
    for key in keys:
        count = getattr(args, FLAT[key])
        if count:
            fix = (
                "say nodeCount and processCountPerNode instead"
                if backend == "mpi" and key == "workerCount"
                else f'remove it, or say distributedBackend: "ps" if {_ROLE[key]} are meant'
            )
            problems.append(
                InputProblem(
                    key,
                    f"it is {count} with distributedBackend {backend}, which has no {_ROLE[key]}",
                    f"no {key} with {backend}",
                    fix,
                )
            )


def _check_ps(
    server: ParameterServer, workers: str, servers: str, unknown: frozenset[str], problems: list[InputProblem]
) -> None:
    if server.workers < 1 and not paths.touches(workers, unknown):
        problems.append(
            InputProblem(workers, f"it is {server.workers}", "at least 1 worker, which trains", "give 1 or more")
        )
    if server.parameter_servers < 1 and not paths.touches(servers, unknown):
        problems.append(
            InputProblem(
                servers,
                f"it is {server.parameter_servers}",
                "at least 1 parameter server, which keeps the variables",
                'give 1 or more, or choose "multi_worker" (multiWorker), which needs none',
            )
        )


def _check_workers(workers: MultiWorker, path: str, unknown: frozenset[str], problems: list[InputProblem]) -> None:
    if workers.workers < 1 and not paths.touches(path, unknown):
        problems.append(InputProblem(path, f"it is {workers.workers}", "at least 1 worker", "give 1 or more"))
