"""Rivals: training epochs with the seed's data set, and with a tuned reader without a cache.

Both are written as a good engineer would write them by hand.
"""

from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

WINDOW_SIZE, STRIDE, MAX_FRAMES, IMAGE_SIZE = 16, 8, 64, 224
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class SeedDataset(Dataset[dict[str, Tensor]]):
    """Rival (a), the seed's way: each item reads its clip again with OpenCV.

    An item reads up to 64 frames, takes the R and G channels as masks, stacks all windows at full
    size, picks one at random, and resizes and normalises its float64 mean.
    """

    def __init__(self, clips: Sequence[Path]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        reader = cv2.VideoCapture(str(self.clips[index]))
        frames = []
        while len(frames) < MAX_FRAMES:
            ok, frame = reader.read()
            if not ok:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        reader.release()
        array = np.stack(frames)
        masks = np.stack([array[..., 0], array[..., 1]], axis=-1)
        starts = range(0, len(array) - WINDOW_SIZE + 1, STRIDE)
        windows = np.stack([array[start : start + WINDOW_SIZE] for start in starts])
        mask_windows = np.stack([masks[start : start + WINDOW_SIZE] for start in starts])
        pick = int(torch.randint(len(windows), ()))
        image = cv2.resize(np.mean(windows[pick], axis=0), (IMAGE_SIZE, IMAGE_SIZE))
        mask = cv2.resize(np.mean(mask_windows[pick], axis=0), (IMAGE_SIZE, IMAGE_SIZE))
        tensor = torch.from_numpy(image).float() / 255
        return {
            "image": ((tensor - MEAN) / STD).permute(2, 0, 1),
            "mask": (torch.from_numpy(mask).float() / 255).permute(2, 0, 1),
        }


class TunedDataset(Dataset[Tensor]):
    """Rival (b), the best without a cache: an item decodes up to the end of its window.

    One codec thread, no conversion before the window, sums in uint16, one resize, bytes out.
    """

    def __init__(self, clips: Sequence[Path]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        first = int(torch.randint((MAX_FRAMES - WINDOW_SIZE) // STRIDE + 1, ())) * STRIDE
        with av.open(str(self.clips[index])) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            total: NDArray[np.uint16] | None = None
            for i, frame in enumerate(container.decode(stream)):
                if i < first:
                    continue
                pixels = frame.to_ndarray(format="rgb24", threads=1)
                if total is None:
                    total = pixels.astype(np.uint16)
                else:
                    np.add(total, pixels, out=total)
                if i == first + WINDOW_SIZE - 1:
                    break
        size = (IMAGE_SIZE, IMAGE_SIZE)
        mean = cv2.resize(total, size, interpolation=cv2.INTER_AREA) // WINDOW_SIZE
        return torch.from_numpy(mean.astype(np.uint8)).permute(2, 0, 1)


def run_epochs(dataset: Dataset[Tensor], num_epochs: int, num_workers: int = 2) -> int:
    """Read the data with a DataLoader; return the number of batches."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=num_workers)
    return sum(1 for _ in range(num_epochs) for _ in loader)
