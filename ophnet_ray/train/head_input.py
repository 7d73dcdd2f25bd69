"""Identity of the encoder that a run with a temporal model is given."""

import hashlib
import json
from dataclasses import replace

from ophnet_ray.config import Config
from ophnet_ray.data.folds import fold_cases
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.table_file import AnnotationError
from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.storage.paths import is_remote
from ophnet_ray.temporal_config import CHECKPOINT_SUFFIX


def locate_data(data: RunData, config: Config) -> RunData:
    """Return the rows of a run under a hash that changes with the given encoder, too.

    Its training identifies a checkpoint, not its bytes: `evaluate --keep_choice` changes those.

    Raises:
        UserError: The checkpoint is missing or damaged, or there are fewer cases than folds.
    """
    num_folds = config.temporal.cross_fit
    if num_folds is not None:
        try:
            fold_cases(data.segments, num_folds, config.training.seed, data.same_videos)
        except AnnotationError as error:
            raise UserError(f"--cross_fit {num_folds}: {error}") from error
    encoder = config.temporal.encoder
    if encoder is None:
        return data
    identity: list[object] = [data.data_hash, encoder]
    if encoder.endswith(CHECKPOINT_SUFFIX) and not is_remote(encoder):
        payload = read_payload(encoder)
        identity = [data.data_hash, payload.data_hash, [dict(each) for each in payload.history]]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return replace(data, data_hash=digest)
