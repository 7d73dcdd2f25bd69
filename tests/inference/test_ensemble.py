"""Ensembles as files: members by path and hash, and what is refused."""

import shutil
from dataclasses import replace

import pytest
import yaml

from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import build_ensemble, read_ensemble, write_ensemble
from ophnet_ray.models.payload import SmoothingChoice
from ophnet_ray.storage.paths import join
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit


@pytest.fixture
def members(tmp_path):
    """Three checkpoints of two phases, in folders of their own."""
    paths = [tmp_path / f"runs/fold{i}/model.ckpt" for i in range(3)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        save_checkpoint(path, make_payload(data_hash=f"{i}" * 64))
    return paths


@pytest.fixture
def file(members, tmp_path):
    path = tmp_path / "runs/ensemble.yaml"
    write_ensemble(path, build_ensemble(members, [2, 1, 1], ["b", "a", "a"]))
    return path


def test_an_ensemble_reads_back_also_after_its_folder_was_moved(file, tmp_path):
    text = file.read_text()
    assert "checkpoint: fold0/model.ckpt" in text
    assert str(tmp_path) not in text
    found = read_ensemble(file)
    assert found.shares == (0.5, 0.25, 0.25)
    assert found.case_hashes == ("a", "b")
    assert found.phases == ("0", "1")
    file.parent.rename(tmp_path / "moved")
    moved = read_ensemble(tmp_path / "moved/ensemble.yaml")
    assert moved.sha256 == found.sha256
    assert moved.members[0].file == tmp_path / "moved/fold0/model.ckpt"


def test_members_in_a_folder_of_a_bucket_are_named_from_there(file, tmp_path):
    folder = "s3://surgery/runs/t-3folds?region=us-east-1"
    places = [join(folder, "fold1of3.ckpt"), join(folder, "fold2of3.ckpt"), "s3://other/m.ckpt"]
    there = [
        replace(member, checkpoint=place)
        for member, place in zip(read_ensemble(file).members, places, strict=True)
    ]
    write_ensemble(tmp_path / "copy.yaml", replace(read_ensemble(file), members=there), folder)
    written = yaml.safe_load((tmp_path / "copy.yaml").read_text())
    names = [member["checkpoint"] for member in written["members"]]
    assert names == ["fold1of3.ckpt", "fold2of3.ckpt", "s3://other/m.ckpt"]


def test_its_identity_is_that_of_its_members_and_shares_in_any_order(members):
    whole = build_ensemble(members)
    assert build_ensemble(members[::-1], [3, 3, 3]).sha256 == whole.sha256
    assert build_ensemble(members, [2, 1, 1]).sha256 != whole.sha256
    alone = build_ensemble(members[:1])
    assert alone.sha256 == alone.members[0].sha256


def test_a_choice_of_smoothing_is_kept_in_the_file(members, tmp_path):
    choice = SmoothingChoice("viterbi", "val", ("frame_accuracy",), case_hashes=("a",))
    ensemble = build_ensemble(members)
    write_ensemble(tmp_path / "e.yaml", ensemble)
    assert read_ensemble(tmp_path / "e.yaml").smoothing is None
    kept = type(ensemble)(members=ensemble.members, phases=ensemble.phases, smoothing=choice)
    write_ensemble(tmp_path / "e.yaml", kept)
    assert read_ensemble(tmp_path / "e.yaml").smoothing == choice


def test_a_member_that_is_missing_or_another_one_is_named_with_the_cure(file, members):
    content = members[1].read_bytes()
    members[1].unlink()
    with pytest.raises(UserError, match=r"its member fold1/model\.ckpt does not exist; put it ba"):
        read_ensemble(file)
    shutil.copy(members[2], members[1])
    with pytest.raises(UserError, match=r"fold1/model\.ckpt has another SHA-256: .* ensemble`"):
        read_ensemble(file)
    members[1].write_bytes(content)
    assert read_ensemble(file).shares == (0.5, 0.25, 0.25)


def test_an_edited_file_is_refused_unless_its_checksum_is_deleted(file):
    text = file.read_text()
    file.write_text(text.replace("weight: 2", "weight: 6"))
    with pytest.raises(UserError, match=r"is damaged .*; put it back, delete its first line"):
        read_ensemble(file)
    file.write_text(file.read_text().partition("\n")[2])
    assert read_ensemble(file).shares == (0.75, 0.125, 0.125)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"format_version": 2}, "of a newer ophnet-ray", id="newer"),
        pytest.param({"phases": 7}, "is damaged", id="no list"),
        pytest.param({"members": [{"checkpoint": "a"}]}, "no entry 'sha256'", id="no hash"),
        pytest.param({"members": []}, "names no checkpoint", id="no members"),
        pytest.param({"phases": ["0"]}, "different vocabularies", id="other phases"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(file, changes, says):
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    with pytest.raises(UserError, match=says) as error:
        read_ensemble(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weight", [0, -1, ".inf", "heavy"])
def test_a_weight_that_is_no_positive_number_is_refused(file, weight):
    text = file.read_text().partition("\n")[2]
    file.write_text(text.replace("weight: 2", f"weight: {weight}"))
    with pytest.raises(UserError, match="is damaged"):
        read_ensemble(file)


def test_members_that_do_not_fit_together_are_refused(members, tmp_path):
    other = tmp_path / "other.ckpt"
    save_checkpoint(other, make_payload(3))
    with pytest.raises(UserError, match=r"different vocabularies: only .*other\.ckpt has phases 2"):
        build_ensemble([*members, other])
    copy = tmp_path / "copy.ckpt"
    shutil.copy(members[0], copy)
    with pytest.raises(UserError, match="are the same model; leave one out"):
        build_ensemble([*members, copy])
    with pytest.raises(UserError, match=r"none\.ckpt does not exist"):
        build_ensemble([tmp_path / "none.ckpt"])
