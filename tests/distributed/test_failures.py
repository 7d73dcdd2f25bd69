"""Errors of Ray, cut to the line that names the cause."""

import pytest

from ophnet_ray.distributed.failures import find_cause

pytestmark = pytest.mark.unit

RAY_DATA = """ray::MapWorker(Map(A)).submit() (pid=1)
  File "decode.py", line 8, in __call__
ValueError: video x.mp4: the cause

The above exception was the direct cause of the following exception:

ray::MapWorker(Map(A)).submit() (pid=1)
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext.get_current()`."""

CUDA = """CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        pytest.param(RAY_DATA, "ValueError: video x.mp4: the cause", id="Ray Data"),
        pytest.param(CUDA, "CUDA error: device-side assert triggered", id="CUDA"),
        pytest.param("The actor died.\n\n\tout of memory\n", "out of memory", id="no traceback"),
        pytest.param("", "", id="no message"),
    ],
)
def test_the_cause_is_named_without_the_advice_of_libraries(message, cause):
    assert find_cause(RuntimeError(message)) == cause
