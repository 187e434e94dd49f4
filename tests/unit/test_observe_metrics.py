"""Metrics of a run: JSON lines and TensorBoard event files, read while they are being written."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

from pulumi_tfjobs import observe
from pulumi_tfjobs.observe import Metrics, Point
from pulumi_tfjobs.targets.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    created = RunFolder(str(tmp_path / "run"))
    for path in (created.root, created.logs, created.outputs):
        os.makedirs(path)
    return created


def write(folder: RunFolder, *lines: str, mode: str = "a", end: str = "\n") -> None:
    with open(folder.metrics, mode, encoding="utf-8") as stream:
        stream.write("\n".join(lines) + end)


# JSON lines


def test_numbers_of_a_line_are_metrics_and_step_and_time_are_not(folder: RunFolder) -> None:
    write(folder, '{"step": 3, "time": 12.5, "loss": 0.5, "accuracy": 1, "note": "x", "done": true, "list": [1]}')
    metrics = Metrics(folder)
    metrics.poll()
    assert metrics.curves == {"loss": [Point(3, 12.5, 0.5)], "accuracy": [Point(3, 12.5, 1.0)]}
    assert metrics.last == {"accuracy": 1.0, "loss": 0.5}


def test_without_a_step_points_are_counted(folder: RunFolder) -> None:
    write(folder, '{"loss": 3}', '{"loss": 2}', '{"loss": 1}')
    metrics = Metrics(folder)
    metrics.poll()
    assert [point.step for point in metrics.curves["loss"]] == [0, 1, 2]


def test_a_line_that_is_being_written_is_read_once_it_is_whole(folder: RunFolder) -> None:
    metrics = Metrics(folder)
    metrics.poll()
    write(folder, '{"step": 1, "loss": 0.5}', '{"step": 2, "lo', end="")
    metrics.poll()
    assert metrics.last == {"loss": 0.5}
    write(folder, 'ss": 0.25}', end="")
    metrics.poll()
    assert metrics.last == {"loss": 0.5}
    write(folder, "", '{"step": 3, "loss": 0.125}')
    metrics.poll()
    assert [(p.step, p.value) for p in metrics.curves["loss"]] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    metrics.poll()
    assert len(metrics.curves["loss"]) == 3


def test_the_last_line_counts_in_the_end_even_without_its_line_end(folder: RunFolder) -> None:
    write(folder, '{"loss": 0.5}', '{"loss": 0.25}', end="")
    metrics = Metrics(folder)
    metrics.finish()
    assert metrics.last == {"loss": 0.25}


def test_bad_lines_are_passed_over(folder: RunFolder) -> None:
    huge = "1" + "0" * 400
    write(
        folder, "", "nonsense", "[1, 2]", "7", '{"loss": }', '{"loss": "0.5"}', "[" * 100_000, '{"a": null}',
        f'{{"step": {huge}, "time": {huge}, "big": {huge}}}', '{"step": "x", "loss": 1}', "\x00\x01",
        '{"loss": 0.5, "x": "' + "y" * (observe.MAX_LINE + 10) + '"}', '{"step": 9, "loss": 2}',
    )  # fmt: skip
    with open(folder.metrics, "ab") as stream:
        stream.write(b'\xff\xfe{"loss": 3}\n')
    metrics = Metrics(folder)
    metrics.poll()
    assert metrics.curves == {"loss": [Point(0, 0.0, 1.0), Point(9, 0.0, 2.0)], "big": [Point(0, 0.0, math.inf)]}


def test_nan_and_infinity_are_values(folder: RunFolder) -> None:
    write(folder, '{"loss": NaN, "up": Infinity, "down": -Infinity}')
    metrics = Metrics(folder)
    metrics.poll()
    assert math.isnan(metrics.last["loss"])
    assert (metrics.last["up"], metrics.last["down"]) == (math.inf, -math.inf)


def test_a_new_attempt_that_writes_its_file_anew_is_read_from_its_start(folder: RunFolder) -> None:
    write(folder, *(f'{{"step": {step}, "loss": 1}}' for step in range(5)))
    metrics = Metrics(folder)
    metrics.poll()
    write(folder, '{"step": 0, "loss": 7}', mode="w")
    metrics.poll()
    assert metrics.last == {"loss": 7.0}
    os.rename(folder.metrics, folder.metrics + ".old")
    write(folder, *(f'{{"step": {step}, "loss": 8}}' for step in range(9)))
    metrics.poll()
    assert [point.value for point in metrics.curves["loss"]] == [1.0] * 5 + [7.0] + [8.0] * 9


def test_no_file_is_no_metric(folder: RunFolder) -> None:
    metrics = Metrics(folder)
    metrics.poll()
    metrics.finish()
    assert metrics.last == {}
    assert metrics.newest is None


def test_a_long_curve_is_thinned_and_keeps_its_ends(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "MAX_POINTS", 100)
    write(folder, *(f'{{"step": {step}, "loss": {step}}}' for step in range(1000)))
    metrics = Metrics(folder)
    metrics.poll()
    points = metrics.curves["loss"]
    assert 50 <= len(points) <= 100
    assert points[0].step == 0
    assert points[-1].step == 999
    steps = [point.step for point in points]
    assert steps == sorted(set(steps))


def test_tags_without_number_do_not_fill_the_memory(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "MAX_TAGS", 10)
    write(folder, json.dumps({f"tag{index}": index for index in range(100)}), '{"tag3": 7}')
    metrics = Metrics(folder)
    metrics.poll()
    assert len(metrics.curves) == 10
    assert metrics.last["tag3"] == 7.0


def test_the_newest_metric_is_a_loss_before_anything_else(folder: RunFolder) -> None:
    metrics = Metrics(folder)
    write(folder, '{"loss": 9}', '{"step": 4, "aaa": 1, "val_accuracy": 2, "val_loss": 3}')
    metrics.poll()
    assert metrics.newest == ("val_loss", Point(4, 0.0, 3.0))
    write(folder, '{"step": 5, "aaa": 1, "accuracy": 2}')
    metrics.poll()
    assert metrics.newest == ("accuracy", Point(5, 0.0, 2.0))


# TensorBoard event files


def old_scalar(tag: str, value: float) -> Summary:
    """TensorFlow 1's form."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def new_scalar(tag: str, value: object, plugin: str = "scalars") -> Summary:
    """TensorFlow 2's form: a tensor."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    tensor = value if isinstance(value, TensorProto) else tensor_util.make_tensor_proto(value)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def record(event: Event) -> bytes:
    data = event.SerializeToString()
    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))


def test_the_newest_metric_is_of_the_metrics_file_where_there_is_one(folder: RunFolder) -> None:
    metrics = Metrics(folder)
    writer = EventFileWriter(folder.logs)
    writer.add_event(Event(step=1, wall_time=2.5, summary=old_scalar("epoch_loss", 0.5)))
    writer.flush()
    metrics.poll()
    assert metrics.newest == ("epoch_loss", Point(1, 2.5, 0.5))
    write(folder, '{"step": 200, "a_loss": 3, "loss": 4}')
    metrics.poll()
    writer.add_event(Event(step=2, summary=old_scalar("epoch_loss", 0.25)))
    writer.close()
    metrics.poll()
    assert metrics.last["epoch_loss"] == 0.25
    assert metrics.newest == ("loss", Point(200, 0.0, 4.0)), "a row that counts epochs, then steps, says nothing"


def test_both_forms_of_scalars_are_read_by_folder_and_tag(folder: RunFolder) -> None:
    for place, events in {
        os.path.join(folder.logs, "train"): [old_scalar("loss", 0.5), old_scalar("loss", 0.25)],
        folder.logs: [new_scalar("accuracy", 0.75)],
        os.path.join(folder.outputs, "eval"): [new_scalar("steps", 7)],
    }.items():
        writer = EventFileWriter(place)
        for step, summary in enumerate(events):
            writer.add_event(Event(step=step + 10, wall_time=100.5 + step, summary=summary))
        writer.close()
    metrics = Metrics(folder)
    metrics.poll()
    assert metrics.last == {"accuracy": 0.75, "eval/steps": 7.0, "train/loss": 0.25}
    assert metrics.curves["train/loss"] == [Point(10, 100.5, 0.5), Point(11, 101.5, 0.25)]


def test_what_is_no_scalar_is_passed_over(folder: RunFolder) -> None:
    writer = EventFileWriter(folder.logs)
    for summary in (
        new_scalar("histogram", [1.0, 2.0]),
        new_scalar("text", tensor_util.make_tensor_proto(b"words"), plugin="text"),
        new_scalar("pr_curve", 0.5, plugin="pr_curves"),
        new_scalar("nan", math.nan),
        old_scalar("loss", 0.5),
    ):
        writer.add_event(Event(step=1, summary=summary))
    writer.add_event(Event(step=2, graph_def=b"no summary"))
    writer.close()
    metrics = Metrics(folder)
    metrics.poll()
    assert sorted(metrics.last) == ["loss", "nan"]
    assert math.isnan(metrics.last["nan"])


def test_an_event_that_is_being_written_is_read_once_it_is_whole(folder: RunFolder) -> None:
    path = os.path.join(folder.logs, "events.out.tfevents.1.host")
    first = record(Event(step=1, summary=old_scalar("loss", 0.5)))
    second = record(Event(step=2, summary=old_scalar("loss", 0.25)))
    metrics = Metrics(folder)
    Path(path).write_bytes(first + second[:10])
    metrics.poll()
    assert metrics.last == {"loss": 0.5}
    with open(path, "ab") as stream:
        stream.write(second[10:])
    metrics.poll()
    metrics.poll()
    assert [point.value for point in metrics.curves["loss"]] == [0.5, 0.25]


def test_a_damaged_event_file_costs_nothing_but_its_own_rest(folder: RunFolder) -> None:
    good = record(Event(step=1, summary=old_scalar("loss", 0.5)))
    Path(folder.logs, "a.tfevents.1").write_bytes(good + b"\0" * 50 + good)
    Path(folder.logs, "b.tfevents.1").write_bytes(b"nonsense" * 20)
    Path(folder.logs, "c.tfevents.1").write_bytes(b"")
    Path(folder.logs, "d.tfevents.1").mkdir()
    Path(folder.logs, "e.tfevents.1").write_bytes(record(Event(step=3, summary=old_scalar("accuracy", 0.75))))
    os.mkfifo(os.path.join(folder.logs, "f.tfevents.1"))
    write(folder, '{"lines": 1}')
    metrics = Metrics(folder)
    metrics.poll()
    metrics.poll()
    assert metrics.last == {"accuracy": 0.75, "lines": 1.0, "loss": 0.5}
