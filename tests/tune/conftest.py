"""Searches that several test files ask about."""

import pytest

from ophnet_ray.tune import trial_task
from tests.helpers.fold_trials import prepare_trials


@pytest.fixture
def prepared(color_csv, tmp_path, monkeypatch):
    """A search over four folds whose training takes no time."""
    prepared = prepare_trials(color_csv, tmp_path)
    monkeypatch.setattr(trial_task, "_train", prepared.train)
    return prepared
