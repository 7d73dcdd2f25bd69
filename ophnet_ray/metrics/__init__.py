"""Scores from counts, in numpy, each with a named convention.

``classification`` and ``segmental`` turn counts into single scores, ``bootstrap`` adds intervals,
``scoring`` combines them for the frames of a split, and ``score_card`` is the record that reports
show. ``inference.evaluation`` supplies the predictions.
"""
