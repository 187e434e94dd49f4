"""Training environments: what replicas run in, built once and kept by digest.

Training has an interpreter of its own, since TensorFlow and the Pulumi SDK want different protobuf versions.

``build(spec, progress) -> str``
    The interpreter's path; builds the environment where it is not there. Blocking (use a thread from asyncio): at
    once when built, else seconds to a minute for packages, some minutes more where Horovod has to be compiled.
``is_built(spec) -> bool``
    Whether ``build`` would return at once.
``status(spec) -> "built" | "to build" | "present" | "missing"``
    What there is of it, without starting anything. The last two are said of an interpreter that the user manages.
``variables(spec, interpreter) -> dict[str, str]``
    What a target merges into its replicas' variables. The interpreter's folder also goes first on PATH. No
    LD_LIBRARY_PATH and no OPAL_PREFIX are needed: the Horovod wheel made here finds Open MPI beside itself.
``default_spec(horovod) -> EnvironmentSpec``
    The environment of the example programs, which the set-up builds ahead.

On the command line: ``python -m pulumi_tfjobs.environments build --help``. Where things are: :mod:`.cache`.
``PULUMI_TFJOBS_CACHE`` names another cache folder; ``PULUMI_TFJOBS_WHEELHOUSE`` a folder of ready wheels, which are
looked at before the package index (and before Horovod is compiled).
"""

from __future__ import annotations

from pulumi_tfjobs.environments.builder import build, is_built, status, variables
from pulumi_tfjobs.environments.examples import default_spec

__all__ = ["build", "default_spec", "is_built", "status", "variables"]
