"""Members of an ensemble, chosen on annotated cases that they have not seen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.annotated_videos import AnnotatedVideo, group_by_video
from ophnet_ray.inference.averaging import average_predictions
from ophnet_ray.inference.ensemble import Ensemble, gather_members, read_models
from ophnet_ray.inference.ensemble_replacement import replace_ensemble
from ophnet_ray.inference.greedy_selection import CandidateVideo, Selection, select_members
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.prediction_job import PredictionJob, PredictVideos, build_ensemble_job
from ophnet_ray.inference.predictions import VideoPrediction, read_predictions
from ophnet_ray.inference.seen_cases import find_trained_cases
from ophnet_ray.inference.split_choice import format_few
from ophnet_ray.inference.split_evaluation import NO_FRAME_TIME, align_prediction
from ophnet_ray.metrics.gain import MIN_CASES
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, label_times
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.storage.files import write_atomically

SELECTION_FILE = "selection.json"


@dataclass(frozen=True, kw_only=True)
class MemberRequest:
    """Candidates by name, and the flags of ``ensemble``.

    ``candidates``: path of a checkpoint or of an ensemble, by its name; ``split``: rows that
    choose, ``val`` or ``all``.
    """

    candidates: Mapping[str, str]
    split: str
    frame_rate: float
    causal: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, or the members of folds, and the cases that each member was trained on."""

    name: str
    ensemble: Ensemble
    seen_by: Mapping[str, frozenset[str]]
    """Cases by the SHA-256 of a member."""
    is_unknown: bool
    """A member does not tell its training cases."""

    def held_out_by(self, case_id: str) -> list[str]:
        """Return the members that have not seen a case, by their SHA-256."""
        return [sha256 for sha256, seen in self.seen_by.items() if case_id not in seen]


@dataclass(frozen=True, slots=True)
class MemberChoice:
    """Outcome of a choice: the ensemble that was written, and the selection behind it.

    ``warnings``: one line each, about candidates whose training cases are not known, and an earlier
    ensemble that was set aside.
    """

    ensemble: Ensemble
    selection: Selection
    warnings: tuple[str, ...]


def choose_members(
    folder: PredictionFolder,
    request: MemberRequest,
    segments: Sequence[Segment],
    predict: PredictVideos,
) -> MemberChoice:
    """Choose members on the cases of a table; write ``ensemble.yaml`` and ``selection.json``.

    Of a candidate that is an ensemble of folds, each case is predicted by the members that have not
    seen it. The mean of all is kept unless the selection's gain on cases that did not choose has a
    95 % interval above 0. Until then nothing is written.

    Raises:
        UserError: A candidate was trained on a case that would choose, there are too few cases, or
            no video can be read.
    """
    rows = _choose_rows(segments, request.split)
    candidates = [_read_candidate(name, path, rows) for name, path in request.candidates.items()]
    rows = _leave_seen_out(rows, segments, candidates)
    everything = gather_members(list(request.candidates.values()))
    videos = group_by_video(rows, everything.phases)
    notices: list[str] = []
    with folder.locked():
        job = build_ensemble_job(everything, folder.parts, request.frame_rate, request.causal)
        result = predict(job, {video.video_id: video.video for video in videos})
        if not result.parts:
            raise UserError(f"no video can be read (of {len(videos)})")
        known = [_label(video, candidates, job, video.video_id in result.parts) for video in videos]
        annotated = [each for each in known if (each.truth != NOT_ANNOTATED).any()]
        if not annotated:
            raise UserError(NO_FRAME_TIME)
        selection = select_members(annotated)
        if selection is None:
            raise UserError(f"{MIN_CASES} cases are needed to choose; give --csv_path of more")
        case_ids = sorted({video.case_id for video in annotated})
        ensemble = _weigh(everything, candidates, selection, list(map(hash_case, case_ids)))
        ensemble = replace_ensemble(folder.ensemble, ensemble, notices.append)
        content = {"candidates": list(request.candidates)} | selection.to_dict()
        write_atomically(folder.path / SELECTION_FILE, json.dumps(content, indent=1).encode())
    warnings = tuple(
        f"{candidate.name} is too old to tell its training cases; nothing is checked against them"
        for candidate in candidates
        if candidate.is_unknown
    )
    return MemberChoice(ensemble, selection, (*notices, *warnings))


def _choose_rows(segments: Sequence[Segment], split: str) -> list[Segment]:
    """Return the rows that may choose: never test rows."""
    fitting = [row for row in segments if row.split != "test"]
    if split == "val" and any(row.split == "val" for row in segments):
        fitting = [row for row in fitting if row.split == "val"]
    if not fitting:
        raise UserError(f"--split {split}: the CSV has no such rows; test rows choose nothing")
    return fitting


def _read_candidate(name: str, path: str, rows: Sequence[Segment]) -> Candidate:
    ensemble = read_models(path)
    payloads = {member.sha256: read_payload(member.file) for member in ensemble.members}
    seen_by = {
        sha256: frozenset(find_trained_cases(rows, payload)) for sha256, payload in payloads.items()
    }
    is_unknown = not all(payload.seen_case_hashes for payload in payloads.values())
    return Candidate(name, ensemble, seen_by, is_unknown)


def _leave_seen_out(
    rows: Sequence[Segment], segments: Sequence[Segment], candidates: Sequence[Candidate]
) -> list[Segment]:
    """Return the rows of cases that each candidate has held out.

    Raises:
        UserError: The table has chosen its validation rows, and a candidate was trained on some; or
            no case is left.
    """
    case_ids = sorted({row.case_id for row in rows})
    for candidate in candidates:
        seen = [case_id for case_id in case_ids if not candidate.held_out_by(case_id)]
        if not seen:
            continue
        if any(row.split == "val" for row in segments) or len(seen) == len(case_ids):
            raise UserError(
                f"{candidate.name} was trained on {len(seen)} of the {len(case_ids)} cases that "
                f"would choose ({format_few(seen)}); leave it out, choose on "
                "cases that no model has seen, or give the ensemble.yaml of its folds"
            )
    held_out = {
        case_id
        for case_id in case_ids
        if all(candidate.held_out_by(case_id) for candidate in candidates)
    }
    if not held_out:
        raise UserError("each case was in the training of a model; choose on other cases")
    return [row for row in rows if row.case_id in held_out]


def _label(
    video: AnnotatedVideo, candidates: Sequence[Candidate], job: PredictionJob, is_predicted: bool
) -> CandidateVideo:
    """Read the parts of a video; each candidate's mean is over its members that may predict it."""
    found: dict[str, VideoPrediction] = {}
    if is_predicted:
        for member, part in zip(
            job.members, job.parts_of(video.video_id, video.video), strict=True
        ):
            found[member.info.checkpoint_sha256] = next(read_predictions(part))[0]
    rows = []
    for candidate in candidates:
        allowed = candidate.held_out_by(video.case_id)
        shares = dict(zip(candidate.seen_by, candidate.ensemble.shares, strict=True))
        mean = None
        if found:
            mean = average_predictions(
                [found[sha256] for sha256 in allowed], [shares[sha256] for sha256 in allowed]
            )
        rows.append(align_prediction(video, mean, job.info))
    label_of = {phase: label for label, phase in enumerate(job.info.phases)}
    return CandidateVideo(
        video.case_id,
        label_times(rows[0].times_s, video.segments, label_of),
        np.stack([row.probabilities for row in rows]),
    )


def _weigh(
    everything: Ensemble,
    candidates: Sequence[Candidate],
    selection: Selection,
    case_hashes: Sequence[str],
) -> Ensemble:
    """Give each member its candidate's share of the mean; those of none are left out."""
    weights: dict[str, float] = {}
    for candidate, times in zip(candidates, selection.kept_times, strict=True):
        for member, share in zip(
            candidate.ensemble.members, candidate.ensemble.shares, strict=True
        ):
            weights[member.sha256] = times * share
    members = tuple(
        replace(member, weight=weights[member.sha256])
        for member in everything.members
        if weights[member.sha256]
    )
    chosen = {*everything.case_hashes, *case_hashes}
    return replace(everything, members=members, case_hashes=tuple(sorted(chosen)))
