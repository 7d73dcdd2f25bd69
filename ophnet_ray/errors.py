"""Exceptions that end the program with one line to print, and messages cut to one line."""

from ophnet_ray.characters import escape_unfit

EXIT_FAILED, EXIT_USER_ERROR = 1, 2
"""Exit codes of a program that has failed: not for its input, or for its input."""


class ReportedError(Exception):
    """An error whose text is for the user: ``str(error)`` has no control characters."""

    def __str__(self) -> str:
        """Return the message; a name in it may hold anything."""
        return escape_unfit(super().__str__())


class UserError(ReportedError):
    """Wrong input. ``str(error)`` says what, where and the cure; the program ends with code 2."""


class TrainingError(ReportedError):
    """Training cannot continue. ``str(error)`` is the cause in one line; exit code 1."""


class ClusterError(ReportedError):
    """Ray does not start. ``str(error)`` is the cause in one line; exit code 1."""


class DivergedError(TrainingError):
    """The loss is not finite. The same settings would diverge again."""


class BrokenProcessError(TrainingError):
    """This process can train nothing any more, but another one goes on from the checkpoint."""


class StoppedError(ReportedError):
    """Training has stopped as asked, after a checkpoint.

    ``str(error)`` says where; the same command resumes there.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PredictionError(ReportedError):
    """Prediction cannot continue. ``str(error)`` is the cause in one line; exit code 1."""


class EncodingError(ReportedError):
    """Videos cannot be encoded. ``str(error)`` is the cause in one line; exit code 1."""


def one_line(error: BaseException | str, max_chars: int | None = None) -> str:
    """Return a message with all white space joined to single spaces, cut to ``max_chars``."""
    return " ".join(str(error).split())[:max_chars]


def last_line(error: BaseException | str) -> str:
    """Return the last line of a message that is not blank; an empty text when there is none.

    Ray and torch put a traceback into the message; its last line is the cause.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else ""
