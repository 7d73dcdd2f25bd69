"""Numbers with their nouns, in messages and on pages."""


def say_count(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun: 1 video, 2 videos.

    Args:
        number: The number.
        noun: Of one thing, with a verb where one follows: ``video is``.
        plural: Of several; the default adds an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
