"""Causes of errors that Ray raises, in one line."""

import re

from ophnet_ray.errors import last_line

_NEXT_TRACEBACK = "\nThe above exception was the direct cause of the following exception:"
_CUDA_ERROR = re.compile(r"^.*CUDA error: .+$", re.MULTILINE)


def find_cause(error: BaseException) -> str:
    """Return the last line of the first traceback in an error's message.

    Ray Data puts the worker's traceback first, then one of its own that ends with advice on its
    settings. Of a message without tracebacks, this is the last line. PyTorch puts lines of advice
    after an error of CUDA; the cause is the line before them.
    """
    text = str(error).partition(_NEXT_TRACEBACK)[0]
    cuda = _CUDA_ERROR.search(text)
    return last_line(cuda[0] if cuda else text)
