"""Cross-checks of a job with the software and the compute target that it asks for. Pure."""

from __future__ import annotations

from typing import Protocol

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import paths, software, topology
from pulumi_tfjobs.spec.args import JobArgs
from pulumi_tfjobs.spec.model import Distribution, EnvironmentSpec, Horovod, TargetRef
from pulumi_tfjobs.spec.software import Software

# What TensorFlow takes for yes.
_LEGACY_KERAS = frozenset({"1", "true", "True"})


class Abilities(Protocol):
    """What the cross-checks ask of a compute target; ``pulumi_tfjobs.targets.base.Capabilities`` is one."""

    @property
    def slots(self) -> int | None:
        """How many replicas can run at once, None without a limit."""

    @property
    def gpus(self) -> int | None:
        """Accelerators, None where they are not known."""

    @property
    def controllers(self) -> frozenset[str]:
        """Horovod controllers."""

    @property
    def elastic(self) -> bool:
        """Whether lost Horovod workers are replaced."""


def environment_of(
    args: JobArgs,
    *,
    horovod: bool,
    unknown: frozenset[str],
    problems: list[InputProblem],
    warnings: list[str] | None = None,
) -> EnvironmentSpec:
    """The software that the arguments ask for; problems are added to ``problems``, and what is likely wrong to
    ``warnings``."""
    if args.conda_packages:
        listed = ", ".join(f'"{package}"' for package in args.conda_packages)
        problems.append(
            InputProblem(
                "condaPackages",
                "conda environments cannot be built yet",
                "packages of the Python package index",
                f"move them to pipPackages: [{listed}]",
            )
        )
    if args.user_managed:
        for key, value in (
            ("pipPackages", args.pip_packages),
            ("frameworkVersion", args.framework_version),
            ("pythonVersion", args.python_version),
        ):
            if value:
                problems.append(
                    InputProblem(
                        key,
                        "it is given together with userManaged, where nothing is installed",
                        "an interpreter that has everything",
                        f"remove {key}, or userManaged and interpreterPath",
                    )
                )
        return EnvironmentSpec(python="", interpreter=args.interpreter_path or "python3")
    if args.interpreter_path is not None and not paths.touches("userManaged", unknown):
        problems.append(
            InputProblem(
                "interpreterPath",
                "it is given without userManaged",
                "an interpreterPath only for a user-managed environment",
                "say userManaged: true, or remove interpreterPath",
            )
        )
    wanted = Software(
        packages=tuple(args.pip_packages),
        framework_version=args.framework_version,
        python_version=args.python_version,
        use_gpu=args.use_gpu,
        horovod=horovod,
        unknown=unknown,
        distribution=_distribution_kind(args),
        legacy_keras=args.environment_variables.get("TF_USE_LEGACY_KERAS") in _LEGACY_KERAS,
    )
    found = software.resolve(wanted)
    problems.extend(found.problems)
    if warnings is not None:
        warnings.extend(found.warnings)
    return found.environment


def _distribution_kind(args: JobArgs) -> str:
    if args.distribution is not None:
        return args.distribution.kind
    return {"ps": "parameterServer", "multi_worker": "multiWorker"}.get(args.distributed_backend or "", "")


def check_target(
    args: JobArgs, distribution: Distribution, target: TargetRef, capabilities: Abilities
) -> list[InputProblem]:
    """What the job asks for and the compute target can never give."""
    found = []
    needed = topology.slots_needed(distribution)
    where = "distribution" if args.distribution is not None else _flat_path(args)
    counts = topology.process_counts(distribution)
    members = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "ps")
    if capabilities.slots is not None and needed > capabilities.slots:
        more = f"LocalTarget(slots={needed})" if target.kind == "local" else "a larger compute target"
        found.append(
            InputProblem(
                where,
                f"the job takes {needed} slots ({members}), and the compute target has {capabilities.slots}",
                f"at most {capabilities.slots} processes that train",
                f"give the target more slots ({more}, computeTarget.slots: {needed}), or the job fewer processes",
            )
        )
    if args.use_gpu and capabilities.gpus is not None and capabilities.gpus < needed:
        none = capabilities.gpus == 0
        found.append(
            InputProblem(
                "useGpu",
                "the compute target has no GPU"
                if none
                else f"{needed} processes want a GPU each, and the compute target has {capabilities.gpus}",
                "a target with a GPU for each process that trains",
                "say useGpu: false, or choose a target with GPUs"
                if none
                else "use fewer processes, or say useGpu: false",
            )
        )
    if isinstance(distribution, Horovod) and distribution.controller not in capabilities.controllers:
        names = ", ".join(sorted(capabilities.controllers)) or "none"
        found.append(
            InputProblem(
                "distribution.controller" if args.distribution is not None else "distributedBackend",
                f"the compute target cannot start Horovod with the {distribution.controller} controller",
                f"a controller that it has: {names}",
                f"say controller: {names.split(', ')[0]}" if names != "none" else "choose another compute target",
            )
        )
    if isinstance(distribution, Horovod) and distribution.elastic and not capabilities.elastic:
        found.append(
            InputProblem(
                "distribution",
                "minWorkers or maxWorkers make it elastic, and the compute target cannot replace lost workers",
                "a fixed number of workers",
                "remove minWorkers and maxWorkers, or choose another compute target",
            )
        )
    return found


def _flat_path(args: JobArgs) -> str:
    order = ("processCountPerNode", "nodeCount") if args.distributed_backend == "mpi" else ("workerCount", "nodeCount")
    for key in order:
        if (getattr(args, topology.FLAT[key]) or 1) > 1:
            return key
    return "computeTarget.slots"
