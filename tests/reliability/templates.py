"""Challenge templates: filled and read back, or refused."""

import random
from pathlib import Path

import numpy as np

from ophnet_ray.inference.submission import check_submission, fill_template, read_template
from tests.reliability.damage import scribble
from tests.reliability.outcome import Outcome, attempt

NAME = "template"
_COLUMNS = ("Predict_phase_id", "Phase_predict", "", " ", "Frame_id", "\u00e9")
_HEADERS = (
    "Video_name,Frame_id", "Frame_id", "video,frame", "Frame_id,Predict_phase_id", "", "a,b",
    "Video_name,Frame_id,Predict_phase_id,note", "Frame_id,Frame_id",
)  # fmt: skip
_VALUES = (
    "case_0014_27.jpg", "v_0", "v_4", "v_5", "v_6", "v_" + "9" * 20, "v_" + "9" * 5000, "v_\u0661",
    "v_\u00b2", "0", "1.jpg", "case_0014", "v", "_1", "-1", "v__1", "v/1", "x y_1", "v_1.jpeg2",
    "v_1.TOOLONG", "\0", "../v_1", "v_1\n", "1_" * 2000 + "x", "9" * 20000 + "x", "", " ",
    "v_0.png", "\x1b[2J_1", '"v\n_1"',
)  # fmt: skip
_LABELS = {
    "v": np.array([0, 1, 0, -1, 1]),
    "case_0014": np.array([0] * 30),
    "x y": np.array([1, 1]),
}
_PHASES = ("a", "b")


def run(n: int, seed: int, folder: Path) -> Outcome:
    """Fill ``n`` templates."""
    outcome = Outcome()
    path = folder / "template.csv"
    for i in range(n):
        rng = random.Random(f"{NAME}:{seed}:{i}")
        column, first_frame = rng.choice(_COLUMNS), rng.choice([0, 0, 0, 1])
        data = _template(rng)
        path.write_bytes(data)
        attempt(outcome, lambda c=column, f=first_frame: _fill(path, c, f), (column, data))
    return outcome


def _fill(path: Path, column: str, first_frame: int) -> str:
    template = read_template(path, column)
    submission = fill_template(template, _LABELS, _PHASES, first_frame)
    filled = path.with_name("submission.csv")
    filled.write_bytes(submission.text.encode())
    assert check_submission(filled, template, _PHASES) == submission.num_rows, "rows are lost"
    return "filled"


def _template(rng: random.Random) -> bytes:
    header = rng.choice(_HEADERS)
    num_columns = header.count(",") + 1
    rows = [
        ",".join(
            rng.choice(_VALUES) if rng.random() < 0.6 else f"v_{i}" for _ in range(num_columns)
        )
        for i in range(rng.choice([0, 1, 2, 5, 6]))
    ]
    if rng.random() < 0.3:
        # a right one
        header, rows = "Video_name,Frame_id", [f"v,v_{i}.jpg" for i in range(5)]
    text = rng.choice(["\n", "\r\n", "\r", "\n\n"]).join([header, *rows])
    data = text.encode(rng.choice(["utf-8"] * 8 + ["utf-16", "utf-8-sig"]))
    return scribble(rng, data, 1) if rng.random() < 0.1 else data
