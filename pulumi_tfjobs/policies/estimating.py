"""What an update would still take for a job: by the rules and from the earlier runs of its row in the preview.

A policy gets neither a resource's old state nor which values are secret, so a run's digest cannot be computed here.
The preview has it: a job with which the update does something has its digest among the outputs, and no status yet.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.lifecycle.planning import peek
from pulumi_tfjobs.lifecycle.telling import duration_of
from pulumi_tfjobs.plan.deciding import Known, fate
from pulumi_tfjobs.plan.describing import span
from pulumi_tfjobs.policies.reading import Job
from pulumi_tfjobs.spec.topology import FLAT, slots_needed
from pulumi_tfjobs.store.runs import RunStore
from pulumi_tfjobs.targets.base import Target
from pulumi_tfjobs.targets.registry import target_class


class Estimate(NamedTuple):
    """What a job will take. ``hours`` are slot-hours (GPU-hours where ``gpus``), None where that is not known; ``cost``
    is None where they are not or the target has no price. ``basis`` says where it comes from, ``missing`` what was
    missing. ``bound``: it is no more than this, rather than about this."""

    gpus: bool
    hours: float | None = None
    cost: float | None = None
    currency: str = ""
    basis: str = ""
    missing: str = ""
    bound: bool = False


def estimates(jobs: Iterable[Job]) -> list[tuple[Job, Estimate]]:
    """An estimate for each job. Of several jobs that share a run, one launches it."""
    found = []
    counted: set[tuple[Any, ...]] = set()
    for job in jobs:
        place = job.properties.get("computeTarget")
        place = place if isinstance(place, Mapping) else {}
        run = (job.properties.get("digest"), place.get("kind", "local"), place.get("store"))
        found.append((job, _nothing(job, "it shares the run of another job") if run in counted else _estimate(job)))
        if isinstance(run[0], str):
            counted.add(run)
    return found


def _nothing(job: Job, why: str) -> Estimate:
    return Estimate(_gpus(job), 0.0, 0.0, basis=why)


def _gpus(job: Job) -> bool:
    return job.properties.get("useGpu") is True


def _estimate(job: Job) -> Estimate:
    if isinstance(job.properties.get("status"), str):
        return _nothing(job, "nothing is started")  # the resource stays as the state has it
    gpus = _gpus(job)
    hidden = job.hides("computeTarget", "distribution", "useGpu", *FLAT)
    if hidden:
        return Estimate(gpus, missing=f"{hidden} is not known before the update")
    distribution, target = job.distribution(), _target(job.properties.get("computeTarget"))
    if distribution is None or target is None:
        return Estimate(gpus, missing="its inputs are wrong (the preview says how)")
    store = peek(target.namespace)
    try:
        if not _launches(job.properties.get("digest"), target, store):
            return _nothing(job, "a run of this content is there")
        seconds, runs = duration_of(store, job.name)
    except TfJobsError as error:
        return Estimate(gpus, missing=f"what is known of earlier runs could not be read ({error})")
    slots = slots_needed(distribution)
    most = job.properties.get("maxRunDurationSeconds")
    limit = float(most) if isinstance(most, int | float) else None
    bound = limit is not None and (seconds is None or limit < seconds)
    taken = limit if bound else seconds
    if taken is None:
        return Estimate(gpus, missing="no run of it has finished yet, and it has no maxRunDurationSeconds")
    source = "maxRunDurationSeconds" if bound else "the run before" if runs == 1 else f"the median of {runs} runs"
    hours = slots * taken / 3600
    price, currency = _price(target)
    basis = f"{slots} slot{'' if slots == 1 else 's'} for {span(taken)}, {source}"
    return Estimate(gpus, hours, None if price is None else hours * price, currency, basis, bound=bound)


def _target(options: Any) -> Target | None:
    asked = options if isinstance(options, Mapping) else {}
    given = {str(key): value for key, value in asked.items() if value is not None}
    try:
        cls = target_class(str(given.pop("kind", "local")))
    except KeyError:
        return None
    normalised, problems = cls.check_options(given)
    return None if problems else cls.from_options(normalised)


def _launches(digest: Any, target: Target, store: RunStore) -> bool:
    """Whether replicas are started for it. Where the digest is not known, they may be."""
    run = store.by_digest(digest) if isinstance(digest, str) else None
    if run is None or not os.path.isdir(store.folder(run.run_id).root):
        return True
    state = asyncio.run(target.look(store.folder(run.run_id), run.attempts)) if run.attempts else None
    phase = run.status if state is None else state.phase
    return fate(Known(run.run_id, phase, run.attempts)) in {"launch", "attempt"}


def _price(target: Target) -> tuple[float | None, str]:
    """What a slot costs an hour, and in which currency."""
    capabilities = target.capabilities()
    return capabilities.hourly_price, capabilities.currency
