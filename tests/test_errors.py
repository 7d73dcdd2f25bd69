"""Messages of other programs, cut to the one line that is shown."""

import pytest

from ophnet_ray.errors import last_line, one_line

pytestmark = pytest.mark.unit


def test_a_message_of_many_lines_becomes_one_line_of_the_given_length():
    error = RuntimeError("size mismatch\n\tfor head.weight:   (3, 2)\n")
    assert one_line(error) == "size mismatch for head.weight: (3, 2)"
    assert one_line(error, max_chars=13) == "size mismatch"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        pytest.param("Traceback:\n  a.py\nOSError: full\n\n", "OSError: full", id="traceback"),
        pytest.param(" \n\n", "", id="blank"),
        pytest.param("", "", id="no message"),
    ],
)
def test_the_last_line_that_is_not_blank_is_the_cause(message, line):
    assert last_line(RuntimeError(message)) == line
