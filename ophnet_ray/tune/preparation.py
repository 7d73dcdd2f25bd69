"""Data stage of a search: decode or encode, once for all trials, and what each of them needs."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from ophnet_ray.config import WindowConfig
from ophnet_ray.console import Console
from ophnet_ray.data.cache.segment_keys import sampling_of
from ophnet_ray.data.cache.shards import UNRECORDED_KIND
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_file import ManifestFile
from ophnet_ray.data.passport import build_passport
from ophnet_ray.data.segments import Reject
from ophnet_ray.train.disk_space import check_copy_limit
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.network_checks import check_backbone, check_recipe
from ophnet_ray.train.preflight import check_cluster, check_num_segments, check_speed
from ophnet_ray.train.prepare import prepare_data, prepare_variant
from ophnet_ray.train.run import Run
from ophnet_ray.train.same_run import check_passport
from ophnet_ray.train.stored_manifest import share_manifest, store_manifest
from ophnet_ray.tune.reshuffle import build_reshuffle
from ophnet_ray.tune.resources import TrialPlan, plan_trials
from ophnet_ray.tune.scheduler import check_num_cases
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.space import (
    decoding_variants,
    largest_batch,
    may_take,
    network_variants,
    recipe_variants,
)
from ophnet_ray.tune.trial_task import TrialSetup


def prepare_search(search: Search, held: ExitStack) -> TrialSetup:
    """Decode or encode, once for all trials, whatever any of them may read.

    Args:
        search: The search.
        held: Keeps the features from being pruned while the trials read them.
    """
    run = search.run
    threads = run.directory.read_resources().get("threads_per_worker")
    plan = plan_trials(search.config, search.num_trials, threads, run.console.say)
    if search.folds is None:
        check_num_cases(search.config.search, run.data.segments, run.console.say)
    run = replace(run, config=plan.base)
    if not run.config.temporal.is_used:
        _check(search, run, plan)
    if search.folds is None:
        return _prepare_run(search, run, plan, held)
    return _prepare_folds(search, replace(search.folds, config=plan.base), plan, held)


def _check(search: Search, run: Run, plan: TrialPlan) -> None:
    """Check what frame models ask of cluster and timm, before anything is decoded.

    Raises:
        UserError: Not all trials could be trained.
    """
    check_num_segments(plan.resources.train_workers, run.data.num_train)
    check_speed(run.config, plan.resources.train_workers, plan.resources.use_gpu)
    for settings in network_variants(search.space):
        check_backbone(run.config.replace_flat(**settings), run.console.say)
    for settings in recipe_variants(search.space):
        check_recipe(run.config.replace_flat(**settings))
    check_cluster(run.config, run.data.segments)


def _prepare_folds(search: Search, folds: FoldSet, plan: TrialPlan, held: ExitStack) -> TrialSetup:
    """Prepare each fold: the first one decodes or encodes all rows, with a given encoder."""
    scheduler = search.config.search.scheduler
    if scheduler != "none":
        search.run.console.say(
            f"--folds {len(folds.numbers)}: each trial is trained on all folds, so --scheduler "
            f"{scheduler} stops none"
        )
    setups: dict[int, TrialSetup] = {}
    for fold in folds.numbers:
        config = folds.config_of(fold)
        directory = search.directory.fold_data(config.data.fold_name)
        directory.create()
        run = Run(config, directory, folds.data_of(fold), Console(f"fold {fold}: "))
        check_num_segments(plan.resources.train_workers, run.data.num_train)
        setups[fold] = _prepare_run(search, run, plan, held)
        if fold == 1:
            _account_for_all(replace(search.run, config=plan.base), run, plan)
    return replace(setups[1], folds=setups)


def _account_for_all(whole: Run, fold: Run, plan: TrialPlan) -> None:
    """Write settings and passport of the search, with the rows that the run of a fold rejects."""
    reasons = fold.directory.read_rejects()
    unreadable = [
        Reject(row, reasons[row.segment_id], UNRECORDED_KIND)
        for row in whole.data.segments
        if row.segment_id in reasons
    ]
    phases = Manifest(tuple(whole.data.phases), whole.config.windows, ())
    passport = build_passport(whole.data, phases, unreadable, plan.resources.describe())
    check_passport(whole.directory, passport)
    whole.directory.write_passport(passport)
    whole.directory.write_config(whole.config)


def _prepare_run(search: Search, run: Run, plan: TrialPlan, held: ExitStack) -> TrialSetup:
    """Decode or encode the rows of a run: that of the search, or that of a fold."""
    if run.config.temporal.is_used:
        # loads timm, which searches over frame models leave to their workers
        from ophnet_ray.train.head_stages import prepare_head

        manifest = Manifest(tuple(run.data.phases), run.config.windows, ())
        head = prepare_head(run, plan.resources, held)
        only = {run.config.windows: manifest}
        return TrialSetup(search.directory, plan, only, run.data.data_hash, search.metric, head)
    first = prepare_data(run, run.open_cache(), plan.resources)
    check_copy_limit(run.config.replace_flat(**largest_batch(search.space)), first)
    decoded = {sampling_of(run.config.windows): first}
    manifests: dict[WindowConfig, Manifest] = {run.config.windows: first}
    for settings in decoding_variants(search.space):
        variant = replace(run, config=run.config.replace_flat(**settings))
        windows = variant.config.windows
        sampling = sampling_of(windows)
        if sampling not in decoded:
            decoded[sampling] = prepare_variant(
                variant, variant.open_cache(), plan.resources, first.phases
            )
        manifests[windows] = replace(decoded[sampling], windows=windows)
    setup = TrialSetup(search.directory, plan, manifests, run.data.data_hash, search.metric)
    if search.config.search.reshuffle:
        return replace(setup, reshuffle=build_reshuffle(run, first))
    return replace(setup, manifests=_store(manifests, search, run))


def _store(
    manifests: Mapping[WindowConfig, Manifest], search: Search, run: Run
) -> dict[WindowConfig, Manifest | ManifestFile]:
    """Write the manifests: each trial maps its file, wherever it runs.

    Machines without the folder fetch it once for all.
    """
    file = run.directory.manifest
    keeps_groups = may_take(search.space, run.config, "shuffle", "shard")
    return {
        windows: share_manifest(
            store_manifest(
                manifest, file.with_stem(f"{file.stem}-{number}"), keeps_groups=keeps_groups
            ),
            run.directory,
        )
        for number, (windows, manifest) in enumerate(manifests.items())
    }
