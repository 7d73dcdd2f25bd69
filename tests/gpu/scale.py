"""Sizes of the check: of a machine with a GPU, and a toy for the CPU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements, and their time limits.

    Attributes:
        models: Batch size of each timm model.
        compiled: Those that are compiled, too.
        image_size: Height and width of the images, pixels.
        warmup_steps: Training steps before the clock starts.
        max_steps: Maximum number of steps with the clock.
        seconds: Seconds after which the clock stops.
        rounds: Turns of the measurements that are compared.
        video: Frames, height and width of the video.
        matrix: Rows of the square matrices whose product is timed.
        model_limit_s: Seconds until the process of a model is ended.
        tests_limit_s: The same of the tests.
        total_limit_s: Seconds after which no process of the check is left.
    """

    models: dict[str, int]
    compiled: tuple[str, ...]
    image_size: int
    warmup_steps: int
    max_steps: int
    seconds: float
    rounds: int
    video: tuple[int, int, int]
    matrix: int
    model_limit_s: float
    tests_limit_s: float
    total_limit_s: float


GPU = Scale(
    models={
        "caformer_s18": 64,
        "maxvit_large_tf_224": 32,
        "vit_large_patch14_reg4_dinov2": 64,
        "convnext_base": 64,
    },
    compiled=("caformer_s18", "maxvit_large_tf_224"),
    image_size=224,
    warmup_steps=8,
    max_steps=60,
    seconds=2.5,
    rounds=3,
    video=(300, 720, 1280),
    matrix=8192,
    model_limit_s=200.0,
    tests_limit_s=110.0,
    total_limit_s=460.0,
)
TOY = Scale(
    models={"test_vit": 4, "test_resnet": 4},
    compiled=(),
    image_size=32,
    warmup_steps=1,
    max_steps=3,
    seconds=0.5,
    rounds=1,
    video=(60, 64, 96),
    matrix=128,
    # for cores that are shared with many other processes
    model_limit_s=400.0,
    tests_limit_s=400.0,
    total_limit_s=800.0,
)
