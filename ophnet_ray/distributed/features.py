"""Features of whole videos in parallel: an encoder in actors of ``video_pool``.

Each finished video is a file of its own in the store, so that a killed command resumes with the
others.
"""

from collections.abc import Mapping

from ophnet_ray.console import Console
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.distributed.video_pool import VideoWorkError, work_on_videos
from ophnet_ray.errors import EncodingError
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.encoding_job import EncodingJob, plan_encoding


def extract_features(
    encoder: EncoderSource,
    videos: Mapping[str, str],
    store: FeatureStore,
    num_workers: int,
    console: Console,
    *,
    num_sharing: int = 1,
) -> dict[str, str]:
    """Write the features of the videos that the store does not hold; each is decoded once.

    Runs on the cluster to which this process is connected, else on one that is joined for it.

    Args:
        encoder: The encoder that the store is for.
        videos: Paths by id; files of equal content are encoded once.
        store: The store.
        num_workers: Maximum number of actors; each decodes on one CPU and holds the encoder.
        console: Shows the progress, and names the videos without features.
        num_sharing: Runs that share the cluster side by side, this one included.

    Returns:
        Reason of each video without features, by id.

    Raises:
        UserError: The store cannot be written.
        EncodingError: The cluster or the encoder failed.
    """
    plan = plan_encoding(store, videos.values())
    broken = {id_: plan.broken[video] for id_, video in videos.items() if video in plan.broken}
    ids = {id_: plan.content_ids[video] for id_, video in videos.items() if id_ not in broken}
    num_done = sum(content_id not in plan.todo for content_id in ids.values())
    if num_done:
        console.say(f"features  {num_done} of {len(videos)} videos are encoded already")
    try:
        job = EncodingJob(encoder, store)
        unreadable = work_on_videos(
            job, plan.todo, num_workers, console, "features", num_sharing=num_sharing
        )
    except VideoWorkError as error:
        raise EncodingError(str(error)) from error
    broken |= {id_: unreadable[own] for id_, own in ids.items() if own in unreadable}
    for id_, reason in broken.items():
        console.warn(f"{videos[id_]} has no features: {reason}")
    return broken
