"""Causes of errors that Ray raises, in one line."""

from ophnet_ray.errors import last_line

_NEXT_TRACEBACK = "\nThe above exception was the direct cause of the following exception:"


def find_cause(error: BaseException) -> str:
    """Return the last line of the first traceback in an error's message.

    Ray Data puts the worker's traceback first, then one of its own that ends with advice on its
    settings. Of a message without tracebacks, this is the last line.
    """
    return last_line(str(error).partition(_NEXT_TRACEBACK)[0])
