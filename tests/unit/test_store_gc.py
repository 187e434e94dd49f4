"""What may go: never a run that a state refers to, that lives or is protected; what is cut off is finished later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.store import gc
from pulumi_tfjobs.store.files import remove_tree, size_of
from pulumi_tfjobs.store.gc import Rules
from pulumi_tfjobs.store.runs import Run, RunStore
from tests.helpers.store_workers import as_nobody

NOW = 10_000.0


def run_of(number: int, *, job: str = "mnist", status: str = "succeeded", age: float = 0.0, **fields: Any) -> Run:
    ended = NOW - age
    return Run(f"{job}-{number}", f"{number}", job, status, ended - 50, ended, 1, number=number, **fields)


def chosen(runs: list[Run], rules: Rules, *, living: tuple[str, ...] = (), total: int = 0) -> list[str]:
    newest_first = sorted(runs, key=lambda run: -run.number)
    doomed = gc.choose(newest_first, rules, living=living, now=NOW, total=total, size=lambda _: 10)
    return [entry.run.run_id for entry in doomed]


def test_without_a_rule_nothing_goes() -> None:
    assert chosen([run_of(1, age=9e9)], Rules()) == []


def test_by_age_since_the_end() -> None:
    runs = [run_of(1, age=200), run_of(2, age=90), run_of(3, age=110)]
    assert chosen(runs, Rules(older=100)) == ["mnist-1", "mnist-3"]
    never_ended = run_of(4, status="pending")._replace(finished=None, created=NOW - 500)
    assert chosen([never_ended], Rules(older=100)) == ["mnist-4"]
    assert chosen([run_of(5, age=-500)], Rules(older=0)) == [], "the clock was set back"


def test_by_count_of_each_job() -> None:
    runs = [run_of(n) for n in range(1, 5)] + [run_of(n, job="resnet") for n in range(5, 7)]
    assert chosen(runs, Rules(keep=2)) == ["mnist-1", "mnist-2"]
    assert chosen(runs, Rules(keep=0)) == [run.run_id for run in runs]


def test_both_rules_must_let_it_go() -> None:
    runs = [run_of(1, age=500), run_of(2, age=400), run_of(3, age=300), run_of(4, age=10)]
    assert chosen(runs, Rules(older=100, keep=2)) == ["mnist-1", "mnist-2"]
    assert chosen(runs, Rules(older=350, keep=1)) == ["mnist-1", "mnist-2"]


def test_by_size_the_oldest_go_until_it_fits() -> None:
    runs = [run_of(n) for n in range(1, 6)]
    assert chosen(runs, Rules(max_size=30), total=50) == ["mnist-1", "mnist-2"]
    assert chosen(runs, Rules(max_size=30), total=30) == []
    assert chosen(runs, Rules(max_size=0, keep=3), total=50) == ["mnist-1", "mnist-2"]
    old = [run_of(1, age=500), run_of(2), run_of(3)]
    assert chosen(old, Rules(older=100, max_size=15), total=30) == ["mnist-1", "mnist-2"]


def test_by_status() -> None:
    runs = [run_of(1, status="failed", age=500), run_of(2, age=500), run_of(3, status="failed")]
    assert chosen(runs, Rules(statuses=("failed",))) == ["mnist-1", "mnist-3"]
    assert chosen(runs, Rules(statuses=("failed",), older=100)) == ["mnist-1"]
    assert chosen(runs, Rules(statuses=("failed",), max_size=25), total=30) == ["mnist-1"]


@pytest.mark.parametrize("rules", [Rules(older=0), Rules(keep=0), Rules(max_size=0), Rules(statuses=("succeeded",))])
def test_no_rule_takes_what_is_needed(rules: Rules) -> None:
    runs = [
        run_of(1, age=500, references=1),
        run_of(2, age=500, protected=True),
        run_of(3, age=500),
        run_of(4, age=500),
    ]
    assert chosen(runs, rules, living=("mnist-3",), total=40) == ["mnist-4"]


# The store's part of it


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    created = RunStore(str(tmp_path / "store"))
    yield created
    created.close()


def reserve(store: RunStore, digit: str = "a", source: str | None = None, urn: str = "urn:a") -> str:
    record = {"target": {"kind": "local"}, "source": source}
    run_id: str = store.reserve(f"mnist-{digit}", digit * 64, "mnist", record, urn).run_id
    return run_id


def test_a_protected_run_is_not_removed_by_anything(store: RunStore) -> None:
    run_id = reserve(store)
    store.protect([run_id], protected=True)
    store.drop_reference(run_id, "urn:a")
    assert not store.remove(run_id)
    assert not store.remove_unused(run_id, 0)
    assert os.path.isdir(store.folder(run_id).outputs)
    store.protect([run_id], protected=False)
    assert store.remove(run_id)
    assert store.get(run_id) is None


def test_what_came_to_be_needed_meanwhile_stays(store: RunStore) -> None:
    run_id = reserve(store)
    assert not store.remove_unused(run_id, 0), "somebody refers to it"
    store.drop_reference(run_id, "urn:a")
    store.add_attempt(run_id, 0)
    assert not store.remove_unused(run_id, 0), "an attempt was made since"
    assert store.get(run_id) is not None
    assert store.remove_unused(run_id, 1)


def test_a_removal_that_cannot_be_noted_is_taken_back(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = reserve(store)
    Path(store.folder(run_id).outputs, "model").write_text("weights")
    rename = os.rename

    def fails_after(old: str, new: str) -> None:
        rename(old, new)
        if ".removed-" in new:
            raise OSError(28, "No space left on device", new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails_after)
        with pytest.raises(StoreError):
            store.remove(run_id)
    assert store.get(run_id) is not None
    assert Path(store.folder(run_id).outputs, "model").read_text() == "weights"


def test_leftovers_are_what_nothing_needs(store: RunStore) -> None:
    kept, gone = reserve(store, "a", source="s1"), reserve(store, "b", source="s2")
    for name in ("s1", "s2", "s3", ".removed-s4-1-1", ".copying-new", ".copying-old"):
        os.makedirs(os.path.join(store.sources, name))
    os.utime(os.path.join(store.sources, ".copying-old"), (1, 1))
    os.makedirs(os.path.join(store.root, "runs", ".removed-mnist-c-1-1"))

    def names(doomed: tuple[str, ...] = ()) -> set[str]:
        return {os.path.basename(left.path) for left in gc.leftovers(store, doomed)}

    always = {"s3", ".removed-s4-1-1", ".copying-old", ".removed-mnist-c-1-1"}
    assert names() == always
    assert names((gone,)) == {*always, "s2"}
    assert not store.remove_source("s1")
    assert store.remove_source("s3")
    assert sorted(os.listdir(store.sources)) == [".copying-new", ".copying-old", ".removed-s4-1-1", "s1", "s2"]
    assert store.get(kept) is not None


def test_a_folder_that_a_script_made_read_only_goes_too(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    (tmp_path / "elsewhere").mkdir()

    def work() -> str:
        inner = tmp_path / "run" / "outputs" / "model"
        inner.mkdir(parents=True)
        (inner / "weights").write_bytes(bytes(5000))
        (inner / "link").symlink_to(tmp_path / "elsewhere")
        size = size_of(str(tmp_path / "run"))
        inner.chmod(0o500)
        remove_tree(str(tmp_path / "run"))
        remove_tree(str(tmp_path / "run"))
        return str(size)

    assert int(as_nobody(work)) >= 5000
    assert os.listdir(tmp_path) == ["elsewhere"]


def test_what_is_not_there_takes_nothing(tmp_path: Path) -> None:
    assert size_of(str(tmp_path / "none")) == 0
