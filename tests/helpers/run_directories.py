"""Run directories as complete and unfinished runs leave them, without a training."""

import json
from pathlib import Path

import numpy as np

from ophnet_ray.config import Config
from ophnet_ray.data.passport import Passport, SplitCounts
from ophnet_ray.hashing import hash_case
from ophnet_ray.metrics.case_counts import format_counts
from ophnet_ray.metrics.score_card import build_window_card
from ophnet_ray.settings_file import dump_config
from ophnet_ray.storage.records import dump_record, dump_yaml_record

PHASES = ["incision", "aspiration", "closure"]
NUM_WINDOWS = 100
"""Windows of each phase in each case."""


def make_passport(data_hash: str, num_cases: int) -> Passport:
    """An account of data with as many cases in training as in validation."""
    split = SplitCounts(3 * num_cases, num_cases, num_cases, dict.fromkeys(PHASES, num_cases))
    return Passport(
        data_hash=data_hash,
        used_hash=data_hash,
        rows=6 * num_cases,
        rows_used=6 * num_cases,
        rows_rejected=0,
        rejected_by_reason={},
        rows_cut_at_video_end=0,
        overlaps=0,
        gaps=0,
        shorter_than_1_s=0,
        splits={"train": split, "val": split},
        cases_on_both_sides=[],
        phases=PHASES,
        phases_not_in_training=[],
        phases_not_in_validation=[],
        versions={},
        resources={},
    )


def draw_counts(share_right: float, num_cases: int, seed: int = 0) -> np.ndarray:
    """Counts of validation windows by case, (C, 3, 3), with this share of right ones on average."""
    rng = np.random.default_rng(seed)
    right = rng.binomial(NUM_WINDOWS, share_right, (num_cases, len(PHASES)))
    counts = np.zeros((num_cases, len(PHASES), len(PHASES)), dtype=np.int64)
    for phase in range(len(PHASES)):
        counts[:, phase, phase] = right[:, phase]
        counts[:, phase, (phase + 1) % len(PHASES)] = NUM_WINDOWS - right[:, phase]
    return counts


def write_run(
    storage: Path,
    name: str,
    share_right: float = 0.8,
    *,
    data_hash: str = "a" * 64,
    num_cases: int = 8,
    is_complete: bool = True,
    seed: int = 0,
    **settings: object,
) -> Path:
    """Write the small files of a run of three epochs, and a report.

    Args:
        storage: Storage path.
        name: Name of the run.
        share_right: Share of validation windows that it predicts rightly.
        data_hash: Of its data.
        num_cases: Validation cases.
        is_complete: False: it has no result yet.
        seed: Of its counts.
        settings: Settings of the run.
    """
    folder = storage / name
    (folder / "checkpoints").mkdir(parents=True)
    config = Config().replace_flat(csv_path="/data/table.csv", **settings)
    (folder / "config.yaml").write_bytes(dump_yaml_record(dump_config(config)))
    passport = make_passport(data_hash, num_cases)
    (folder / "passport.json").write_bytes(dump_record(passport.to_dict()))
    counts = draw_counts(share_right, num_cases, seed)
    card = build_window_card(counts, PHASES, [num_cases] * len(PHASES), num_cases)
    score, accuracy = (each.value for each in card.scores[:2])
    history = [
        {"epoch": epoch, "val_loss": 1.0, "val_acc": accuracy, "seconds": 20.0}
        | {"val_macro_f1": score - 0.1 * (2 - epoch)}
        for epoch in range(3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in history))
    if is_complete:
        cases = sorted(hash_case(f"{data_hash}-{i}") for i in range(num_cases))
        scores = {"val_macro_f1": score, "val_acc": accuracy, "val_loss": 1.0}
        result = {"checkpoint": "checkpoints/epoch=0002/checkpoint.ckpt", "best_epoch": 3}
        (folder / "result.json").write_bytes(dump_record(result | {"scores": scores}))
        by_case = {"case_hashes": cases, "counts_by_case": format_counts(counts)}
        (folder / "scores.json").write_text(json.dumps(card.to_dict() | by_case))
        (folder / "report.html").write_text(f"<title>{len(name)}</title>")
    return folder
