"""``python -m ophnet_ray features``: what an encoder sees in whole videos, kept in the cache."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ophnet_ray.cli.checks import (
    check_at_least_1,
    check_checkpoint,
    check_choice,
    check_frame_rate,
    create_output_folder,
)
from ophnet_ray.config import DEFAULT_CACHE_DIR, WindowConfig, WindowImage
from ophnet_ray.console import Console, print_answer
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.predictions import DEFAULT_FRAME_RATE
from ophnet_ray.inference.video_names import find_videos, name_videos
from ophnet_ray.models.backbone_names import (
    check_commercial_use,
    describe_weights,
    find_uncovered_pixels,
)
from ophnet_ray.settings import NUM_WORKERS, check_rules
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.paths import check_location, plain_uri
from ophnet_ray.storage.replacement import FileKind, check_kind

if TYPE_CHECKING:
    # loads the codec, which --help does not need
    from ophnet_ray.data.features.store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class FeaturesCommand:
    """Encode whole videos, one vector per frame time, into the cache; the same command resumes."""

    encoder: str
    """Checkpoint that train.py wrote (.ckpt), run directory, or the name of a timm model."""
    encoder_weights: str | None = None
    """File with weights of the timm model (default: timm's pretrained weights)."""
    allow_noncommercial: bool = False
    """Accept pretrained weights whose licence forbids commercial use."""
    videos: list[str] = field(default_factory=list)
    """Video files and folders of videos, local or in buckets."""
    csv_path: str | None = None
    """Annotation CSV whose videos are encoded, instead of --videos."""
    video_dir: str | None = None
    """Folder of the CSV's videos (default: the CSV's folder)."""
    allow_outside: bool = False
    """Read videos that lie outside of it, too."""
    frame_rate: float = DEFAULT_FRAME_RATE
    """Vectors per second of video."""
    causal: bool = False
    """Use only frames up to each vector's time, as in live use."""
    image_size: int = WindowConfig.image_size
    """Height and width of the input of a timm model, pixels; a checkpoint has its own."""
    window_size: int = WindowConfig.window_size
    """Frames averaged into one input of a timm model; a multiple of stride."""
    stride: int = WindowConfig.stride
    """Frames averaged before others are added; 1 for --window_size 1."""
    window_image: WindowImage = WindowConfig.window_image
    """Input of a timm model: the mean of the frames, or the sharp one in their middle (center)."""
    cache_dir: str = DEFAULT_CACHE_DIR
    """Folder of the cache, as given to train.py."""
    local_cache_dir: str | None = None
    """Folder on each machine for copies of bucket objects."""
    index: str | None = None
    """Write a CSV with each video's id and the file of its features."""
    num_workers: int = NUM_WORKERS
    """Number of parallel actors. Each decodes on one CPU and holds the encoder, on a GPU if there
    is one."""

    def run(self) -> None:
        """Encode, then print where the features are.

        Raises:
            UserError: A flag, the encoder or the table is wrong, or no video can be read.
            EncodingError: The cluster or the encoder failed.
        """
        check_frame_rate(self.frame_rate)
        check_at_least_1("--num_workers", self.num_workers)
        check_location("--cache_dir", self.cache_dir)
        console = Console()
        source = self._build_source(console)
        videos = self._find_videos()
        index = self._check_index()
        prepare_environment()
        from ophnet_ray.data.features.store import FeatureStore
        from ophnet_ray.distributed.features import extract_features
        from ophnet_ray.inference.encoder import load_encoder

        if not source.is_checkpoint:
            self._describe_backbone(source, console)
        encoding = load_encoder(source).encoding(self.frame_rate, self.causal)
        store = FeatureStore(self.cache_dir, encoding, self.local_cache_dir)
        with store.in_use(console.warn):
            broken = extract_features(source, videos, store, self.num_workers, console)
            encoded = {id_: video for id_, video in videos.items() if id_ not in broken}
            if not encoded:
                raise UserError(f"no video can be read (of {len(videos)})")
            ids = store.identify(encoded.values())
            answer = _describe(store, ids[next(iter(encoded.values()))])
            answer["videos"] = f"{len(encoded)} of {len(videos)}"
            if index is not None:
                paths = {id_: store.path_of(ids[video]) for id_, video in encoded.items()}
                write_atomically(index, _format_index(paths))
                answer["index"] = index
            print_answer(answer)

    def _build_source(self, console: Console) -> EncoderSource:
        windows = WindowConfig(
            window_size=self.window_size,
            stride=self.stride,
            max_frames=self.window_size,
            image_size=self.image_size,
            window_image=self.window_image,
        )
        check_rules(windows.rules())
        # --help does not need it
        from ophnet_ray.train.trained_models import find_source

        name = find_source("--encoder", self.encoder, console.say, may_be_model=True)
        source = EncoderSource(name=name, weights=self.encoder_weights, windows=windows)
        if source.is_checkpoint:
            check_checkpoint(name)
        elif self.encoder_weights is None:
            check_commercial_use("--encoder", self.encoder, self.allow_noncommercial)
        return source.located()

    def _describe_backbone(self, source: EncoderSource, console: Console) -> None:
        """Show the licence of a timm model's weights, and warn of pixels that it leaves out."""
        weights = describe_weights(
            "--encoder", source.name, source.weights, self.allow_noncommercial
        )
        console.say(f"encoder {source.name}: loading {weights}")
        uncovered = find_uncovered_pixels("--encoder", source.name, source.windows.image_size)
        if uncovered is not None:
            console.warn(uncovered)

    def _find_videos(self) -> dict[str, str]:
        given = {"--videos": bool(self.videos), "--csv_path": self.csv_path is not None}
        check_choice("features", given)
        if self.csv_path is None:
            return find_videos(self.videos)
        segments = read_annotations(self.csv_path, self.video_dir, allow_outside=self.allow_outside)
        return name_videos([segment.video for segment in segments])

    def _check_index(self) -> Path | None:
        if self.index is None:
            return None
        folder, name = str(Path(self.index).parent), Path(self.index).name
        file = create_output_folder(folder, name, flag="--index") / name
        check_kind("--index", file, FileKind("index of features", _format_index({})))
        return file


def _describe(store: "FeatureStore", content_id: str) -> dict[str, object]:
    """Return the place and the shape of features, from those of one video."""
    sequence, encoding = store.read(content_id), store.encoding
    num_classes = sequence.log_probs.shape[1]
    return {
        "features": plain_uri(store.place),
        "encoder": encoding.backbone,
        "vectors": f"{sequence.features.shape[1]} features, {encoding.frame_rate:g} per second",
        "classes": num_classes or "none",
    }


def _format_index(paths: Mapping[str, str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video_id", "features"])
    writer.writerows((video_id, plain_uri(path)) for video_id, path in paths.items())
    return text.getvalue().encode()
