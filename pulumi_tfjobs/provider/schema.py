"""The package schema that the engine, ``pulumi package add`` and SDK generators read.

Inputs come from :class:`pulumi_tfjobs.spec.args.JobArgs`, descriptions included; outputs are described here, targets in
:mod:`pulumi_tfjobs.provider.schema_targets`, cluster components in :mod:`pulumi_tfjobs.provider.schema_clusters`.
``python -m pulumi_tfjobs.provider.schema`` writes ``schema.json`` beside this module, which is what the plugin serves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from pulumi_tfjobs.provider.schema_clusters import cluster_components, cluster_types
from pulumi_tfjobs.provider.schema_targets import PACKAGE, target_property, target_types

SCHEMA_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema.json")

_ANY = {"$ref": "pulumi.json#/Any"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}

JOB_DESCRIPTION = (
    "A TensorFlow training job. Creating it launches the run that its content names, and waits for it. What decides "
    "the result is the run's identity: a change there trains again (replace); the rest is updated in place; content "
    "that was trained before is not trained again."
)
COMPONENT_DESCRIPTION = (
    "The `TensorFlow` estimator of Azure ML v1 as a component: one training job, with its outputs as its own."
)

# name → (schema, whether every resource has it, description)
OUTPUT_PROPERTIES: dict[str, tuple[dict[str, Any], bool, str]] = {
    "runId": ({"type": "string"}, True, "`<job name>-<first 12 digits of the digest>`."),
    "digest": ({"type": "string"}, True, "SHA-256 (hex) over everything that can change the result."),
    "status": (
        {"type": "string"},
        True,
        (
            "`pending`, `preparing`, `queued`, `starting`, `running`, `restarting`, `stopping`, `succeeded`, "
            "`failed`, `cancelled`, `timed_out` or `interrupted`."
        ),
    ),
    "reason": ({"type": "string"}, True, "Why the status is what it is, in a line. May be empty."),
    "attempt": ({"type": "integer"}, True, "Number of the last attempt, from 1; 0 before the first."),
    "exitCode": ({"type": "integer"}, False, "Exit code of the replica that decided, 0 to 255."),
    "startedAt": ({"type": "string"}, False, "When the last attempt's replicas were started (ISO 8601, UTC)."),
    "finishedAt": ({"type": "string"}, False, "When the last attempt ended (ISO 8601, UTC)."),
    "durationSeconds": ({"type": "number"}, False, "Seconds from start to end of the last attempt."),
    "metrics": (
        {"type": "object", "additionalProperties": {"type": "number"}},
        True,
        "Last value of every scalar, by tag; NaN and infinities as text.",
    ),
    "outputsDir": ({"type": "string"}, True, "Folder of what the script kept."),
    "checkpointsDir": ({"type": "string"}, True, "Folder that a further attempt resumes from."),
    "logs": (_TEXTS, True, "Replica (`worker-0`) -> path of its log."),
    "tfConfig": (_TEXTS, True, "Replica -> its TF_CONFIG (JSON text), for those that have one."),
    "hostfile": ({"type": "string"}, True, "Horovod's hostfile, empty for other distributions."),
    "worldSize": ({"type": "integer"}, True, "Number of replicas that compute."),
    "restarts": ({"type": "integer"}, True, "How often replicas were started again within the last attempt."),
    "worldSizes": (
        {"type": "array", "items": {"type": "object", "additionalProperties": _ANY}},
        True,
        "Of an elastic job, `{time, size}` (ISO 8601, number of workers) at each change; empty for others.",
    ),
}

# What decides a run's result. `sourceDirectory` and `inputs` are places: what is found there counts, they do not.
IDENTITY = frozenset(
    {
        "entryScript",
        "scriptParams",
        "arguments",
        "distribution",
        "nodeCount",
        "processCountPerNode",
        "workerCount",
        "parameterServerCount",
        "distributedBackend",
        "useGpu",
        "pipPackages",
        "condaPackages",
        "frameworkVersion",
        "pythonVersion",
        "userManaged",
        "interpreterPath",
        "environmentVariables",
        "successPolicy",
        "rerun",
    }
)


def package_schema() -> dict[str, Any]:
    """The schema as JSON data."""
    from pulumi_tfjobs import __version__
    from pulumi_tfjobs.spec.args import JobArgs

    builder = _Builder(JobArgs.model_json_schema(by_alias=True))
    inputs = builder.inputs()
    required = list(builder.root["required"])
    outputs = {
        name: {**schema, "description": description} for name, (schema, _, description) in OUTPUT_PROPERTIES.items()
    }
    always = [name for name, (_, given, _) in OUTPUT_PROPERTIES.items() if given]
    source = {**_TEXTS, "description": "The source directory's files -> a short digest of each. Computed."}
    return {
        "name": PACKAGE,
        "displayName": "TensorFlow jobs",
        "version": __version__,
        "description": "TensorFlow training jobs (Horovod, parameter server, multi-worker) as Pulumi resources.",
        "keywords": ["pulumi", "tensorflow", "horovod", "distributed-training", "category/infrastructure"],
        "license": "Apache-2.0",
        "meta": {"moduleFormat": "(.*)"},
        "language": _LANGUAGES,
        "config": {},
        "provider": {"description": "Runs TensorFlow training jobs. It has nothing to configure."},
        "types": dict(sorted({**builder.types, **cluster_types()}.items())),
        "resources": {
            "tfjobs:index:TrainingJob": {
                "description": JOB_DESCRIPTION,
                "inputProperties": inputs,
                "requiredInputs": required,
                "properties": {**inputs, "source": source, **outputs},
                "required": [*required, "source", *always],
            },
            "tfjobs:index:TensorFlow": {
                "description": COMPONENT_DESCRIPTION,
                "isComponent": True,
                "inputProperties": inputs,
                "requiredInputs": required,
                "properties": outputs,
                "required": always,
            },
            **cluster_components(),
        },
    }


_LANGUAGES = {
    "csharp": {"respectSchemaVersion": True, "namespaces": {PACKAGE: "TfJobs"}},
    "go": {
        "respectSchemaVersion": True,
        "importBasePath": "pulumi-tfjobs/sdk/go/tfjobs",
        "generateResourceContainerTypes": True,
    },
    "java": {"buildFiles": "gradle"},
    "nodejs": {"respectSchemaVersion": True, "packageName": "pulumi-tfjobs"},
    # Python programs use pulumi_tfjobs itself; a generated one beside it needs a name of its own.
    "python": {"respectSchemaVersion": True, "packageName": "tfjobs_generated", "pyproject": {"enabled": True}},
}


class _Builder:
    """Pydantic's JSON schema → the engine's dialect of it."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.types: dict[str, Any] = target_types()

    def inputs(self) -> dict[str, Any]:
        found = {}
        for name, schema in self.root["properties"].items():
            found[name] = {**self._property("", name, schema), **_texts(schema)}
            if name in IDENTITY:
                found[name]["willReplaceOnChanges"] = True
        found["computeTarget"] = {**target_property(), **_texts(self.root["properties"]["computeTarget"])}
        return found

    def _property(self, owner: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        schema = _without_null(schema)
        if "oneOf" in schema:
            return self._union(schema)
        if "enum" in schema:
            return {"$ref": self._enum(owner + name[0].upper() + name[1:], schema["enum"])}
        if "const" in schema:
            return {"type": "string", "const": schema["const"]}
        kind = schema.get("type")
        if kind == "array":
            return {"type": "array", "items": self._property(owner, name, schema["items"])}
        if kind == "object":
            values = schema.get("additionalProperties")
            inner = self._property(owner, name, values) if isinstance(values, Mapping) else _ANY
            return {"type": "object", "additionalProperties": inner}
        return {"type": kind} if isinstance(kind, str) else dict(_ANY)

    def _union(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        members, mapping = [], {}
        for kind, where in schema["discriminator"]["mapping"].items():
            definition = self.root["$defs"][where.rpartition("/")[2]]
            name = definition["title"].removesuffix("Args")
            self.types[_token(name)] = {
                "type": "object",
                "description": definition["description"].replace("``", "`"),
                "properties": {
                    key: {**self._property(name, key, value), **_texts(value)}
                    for key, value in definition["properties"].items()
                },
                "required": ["kind"],
            }
            members.append({"$ref": _reference(name)})
            mapping[kind] = _reference(name)
        return {"oneOf": members, "discriminator": {"propertyName": "kind", "mapping": mapping}}

    def _enum(self, name: str, values: list[str]) -> str:
        self.types[_token(name)] = {"type": "string", "enum": [{"value": value} for value in values]}
        return _reference(name)


def _without_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    members = [member for member in schema.get("anyOf", ()) if member.get("type") != "null"]
    return members[0] if len(members) == 1 else schema


def _texts(schema: Mapping[str, Any]) -> dict[str, Any]:
    # Defaults are only described: the provider applies them, and a program's state holds what the user wrote.
    description = schema.get("description")
    return {"description": description} if description else {}


def _token(name: str) -> str:
    return f"{PACKAGE}:index:{name}"


def _reference(name: str) -> str:
    return f"#/types/{_token(name)}"


def schema_text() -> str:
    """The schema as it is kept in ``schema.json``."""
    return json.dumps(package_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write ``schema.json``."""
    with open(SCHEMA_FILE, "w", encoding="utf-8") as stream:
        stream.write(schema_text())


if __name__ == "__main__":
    main()
