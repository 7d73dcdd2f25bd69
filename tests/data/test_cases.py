"""Cases that the names of clips tell."""

import pytest

from ophnet_ray.data.cases import parse_case

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("clip", "phase", "case_id"),
    [
        ("a-1-open-0-3.mp4", "open", "a-1"),
        ("patient-3-3-0-10.mp4", "3", "patient-3"),
        ("patient-3-3-3-10.mp4", "3", "patient-3"),
        ("2021-03-04-03-0-10.mp4", "03", "2021-03-04"),
        ("2021-03-04-3-0-10.mp4", "03", "2021-03-04"),
        ("case3_4_0_9.mp4", "4", "case3"),
        ("case3-phase_4-0-9.mp4", "phase 4", "case3"),
        ("A-Anterior_Chamber-0-10.5.MP4", "anterior chamber", "A"),
        ("folder-9-9-9/case 3 4 0 9.mkv", "4", "case 3"),
        ("s3://bucket/x-4-0-1/case%203-4-0-9.mp4?region=r", "4", "case 3"),
        ("case3-4-0-9.mp4", "5", None),
        ("clip07.mp4", "4", None),
        ("4-0-9.mp4", "4", None),
        ("case3-4-begin-end.mp4", "4", None),
    ],
)
def test_the_case_is_read_from_the_right_whatever_the_separators(clip, phase, case_id):
    assert parse_case(clip, ["", phase]) == case_id
