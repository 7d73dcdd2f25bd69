"""What a user can get wrong, as exceptions that carry the one line to print."""


class UserError(Exception):
    """Wrong input. ``str(error)`` says what, where and the cure; the program ends with code 2."""


class TrainingError(Exception):
    """Training could not go on. ``str(error)`` is the cause in one line; exit code 1."""


class PredictionError(Exception):
    """Prediction could not go on. ``str(error)`` is the cause in one line; exit code 1."""
