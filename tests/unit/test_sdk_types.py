"""The types that the package ships: a wrong argument is an error in the editor, not in the cloud."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from mypy import api

PROGRAM = """
import pulumi
import pulumi_tfjobs as tfjobs

name: pulumi.Output[str] = pulumi.Output.from_input("train.py")
good = tfjobs.TensorFlow(
    "good",
    opts=pulumi.ResourceOptions(protect=True),
    source_directory="./src",
    entry_script=name,
    script_params={"--epochs": 3, "--rates": [0.1, 0.2], "--flag": None, "--lr": pulumi.Output.from_input(0.1)},
    compute_target=tfjobs.LocalTarget("here", slots=4),
    distribution=tfjobs.ParameterServer(workers=2, parameter_servers=1, chief=True),
    environment_variables={"KEY": pulumi.Output.secret("hush")},
    wait_for="running",
)
reveal_type(good.metrics["accuracy"])
reveal_type(good.world_size)
reveal_type(good.job.exit_code)
yaml_like = tfjobs.TrainingJob("plain", source_directory="s", entry_script="t", compute_target={"kind": "local"})

tfjobs.TensorFlow("b1", source_directory="s", entry_script="t", epochs=3)  # E: call-arg
tfjobs.TensorFlow("b2", source_directory="s")  # E: call-arg
tfjobs.TensorFlow("b3", source_directory="s", entry_script=3)  # E: arg-type
tfjobs.TensorFlow("b4", source_directory="s", entry_script="t", node_count="2")  # E: arg-type
tfjobs.TensorFlow("b5", source_directory="s", entry_script="t", distributed_backend="nccl")  # E: arg-type
tfjobs.TensorFlow("b6", source_directory="s", entry_script="t", script_params={"--a": {"b": 1}})  # E: dict-item
tfjobs.TensorFlow("b7", source_directory="s", entry_script="t", wait_for="later")  # E: arg-type
tfjobs.TensorFlow("b8", source_directory="s", entry_script="t", compute_target="local")  # E: arg-type
tfjobs.Horovod(nodes="two")  # E: arg-type
tfjobs.Horovod(controller="nccl")  # E: arg-type
tfjobs.LocalTarget("here", slot=4)  # E: call-arg
tfjobs.Tensorflow  # E: attr-defined
good.accuracy  # E: attr-defined
good.attempt + 1  # E: operator
"""


@pytest.mark.slow
def test_wrong_names_and_types_are_type_errors_and_right_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).resolve().parents[2]
    # The project's own configuration and cache: Pulumi's types take twenty seconds to read, and are read there already.
    monkeypatch.chdir(root)
    out, broken, _ = api.run(["--config-file", "pyproject.toml", "--no-color-output", os.fspath(program)])
    assert broken == ""
    expected = [
        (number, line.rpartition("# E: ")[2]) for number, line in enumerate(PROGRAM.splitlines(), 1) if "# E: " in line
    ]
    found = [(int(line), code) for line, code in re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", out)]
    assert found == expected, out
    revealed = re.findall(r'Revealed type is "([^"]*)"', out)
    assert len(revealed) == 3
    assert "Output[Any]" in revealed[0]
    assert re.search(r"Output\[(builtins\.)?int\]", revealed[1])
    assert "None" in revealed[2]
