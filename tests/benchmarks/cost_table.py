"""Hours, bytes and money of many times OphNet, by formula from the constants below.

Prices are inputs, not measurements: change them here, and run ``python -m tests.benchmarks costs``.
"""

from dataclasses import dataclass

from tests.benchmarks.table import Figure

SCALES = (1, 10, 100, 1000)
OPHNET_HOURS, OPHNET_SEGMENTS = 89, 14_674


@dataclass(frozen=True)
class Constants:
    """Figures that were measured on two cores of a server; the part named is what measures each."""

    segment_bytes: int = 64 // 8 * 224**2 * 3
    """Blocks of a segment at the default settings; exact, an upper bound for short segments."""
    decode_cpu_s_per_s_720p: float = 0.017
    """CPU-seconds to decode a second of video (`constants`), without other load on the machine."""
    decode_cpu_s_per_s_1080p: float = 0.032
    driver_cpu_s_per_segment: float = 60 / 1_467_400
    """From the CSV to the workers' file, the cache full (`scale`, at 100 times, rounded up)."""
    manifest_bytes_per_segment: float = 52.0
    """The file that each node of train workers fetches once (`scale`)."""
    reader_windows_per_cpu_s: float = 8_100.0
    """Windows that a core reads from a local disk: the least that was measured (`constants`)."""


@dataclass(frozen=True)
class Assumptions:
    """Inputs that were not measured here."""

    video_mbit_per_s: float = 5.0
    """Bit rate of the videos; OphNet's own vary."""
    gpu_windows_per_s: float = 500.0
    """Training steps of the default network at 224 pixels on one H100, forward and backward."""
    num_epochs: int = 30
    val_share: float = 0.2
    """Share of the segments that validate: six windows each, at a third of the cost of training."""
    cpu_machine: str = "AWS c7i.16xlarge"
    cpu_cores: int = 32
    """Physical cores; a second thread of a core is not counted."""
    cpu_dollars_per_h: float = 2.86
    gpu_machine: str = "AWS p5.48xlarge"
    num_gpus: int = 8
    gpu_dollars_per_h: float = 55.04
    bucket: str = "S3 Standard"
    bucket_dollars_per_gb_month: float = 0.023
    as_of: str = "2025-11"
    """Month of the prices: on demand, us-east-1, written from memory. Check yours."""


def tabulate_costs(
    constants: Constants | None = None, assumptions: Assumptions | None = None
) -> list[Figure]:
    """Return the cost of each scale: bytes, hours and dollars."""
    measured, assumed = constants or Constants(), assumptions or Assumptions()
    return [figure for scale in SCALES for figure in _cost_of(scale, measured, assumed)]


def _cost_of(scale: int, c: Constants, a: Assumptions) -> list[Figure]:
    segments, hours = OPHNET_SEGMENTS * scale, OPHNET_HOURS * scale
    cache_gb = segments * c.segment_bytes / 1e9
    video_gb = hours * 3600 * a.video_mbit_per_s / 8 / 1e3
    decode_h = {
        "720p": hours * c.decode_cpu_s_per_s_720p,
        "1080p": hours * c.decode_cpu_s_per_s_1080p,
    }
    equivalents = segments * ((1 - a.val_share) + a.val_share * 6 / 3)
    gpu_h = equivalents * a.num_epochs / a.gpu_windows_per_s / 3600
    reader_cores = a.num_gpus * a.gpu_windows_per_s / c.reader_windows_per_cpu_s
    storage = a.bucket_dollars_per_gb_month
    cpu_machine = f"on one {a.cpu_machine}, {a.cpu_cores} cores"
    gpu_machine = f"on one {a.gpu_machine}, {a.num_gpus} GPUs, {a.num_epochs} epochs"
    head = f"{scale} x OphNet"
    figures = [
        Figure(f"{head}, videos: GB", video_gb, f"{a.video_mbit_per_s:g} Mbit/s, assumed"),
        Figure(f"{head}, cache: GB", cache_gb, "segments x segment_bytes"),
        Figure(f"{head}, manifest per node: MB", segments * c.manifest_bytes_per_segment / 1e6),
        Figure(f"{head}, driver, cache full: CPU-s", segments * c.driver_cpu_s_per_segment),
    ]
    for name, cpu_h in decode_h.items():
        wall_h = cpu_h / a.cpu_cores
        figures += [
            Figure(f"{head}, decoding {name}, once: CPU-h", cpu_h),
            Figure(f"{head}, decoding {name}: h", wall_h, cpu_machine),
            Figure(f"{head}, decoding {name}: $", wall_h * a.cpu_dollars_per_h, a.as_of),
        ]
    train_h = gpu_h / a.num_gpus
    return [
        *figures,
        Figure(f"{head}, training: GPU-h", gpu_h, f"{a.gpu_windows_per_s:g} windows/s, assumed"),
        Figure(f"{head}, training: h", train_h, gpu_machine),
        Figure(f"{head}, training: $", train_h * a.gpu_dollars_per_h, a.as_of),
        Figure(f"{head}, cores that read for it", reader_cores, "windows from a local disk"),
        Figure(f"{head}, cache in a bucket: $ per month", cache_gb * storage, a.bucket),
        Figure(f"{head}, videos in a bucket: $ per month", video_gb * storage, a.bucket),
    ]
