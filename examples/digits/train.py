"""Trains the network of the demo and exports it: writes digits.onnx and test.npz beside this file.

Needs more than convc does: `pip install torch scikit-learn onnx`. Takes two minutes on two CPU cores. What it wrote is
in the repository, so nothing else needs this script.

The data are the 1,797 handwritten digits of scikit-learn's `load_digits` (8x8 pixels; from the UCI machine learning
repository, E. Alpaydin and C. Kaynak, 1998); 30 % of them, the same share of every digit, are kept for the test and
seen by nothing before it.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).parent
SEED = 0
EPOCHS = 40
BATCH = 64
OPSET = 17
PIXEL_MAXIMUM = 16.0
"""Pixels of the data set are counts from 0 to 16."""


def unit(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two 3x3 convolutions and the way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = unit(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.second(self.first(x))) + x)


class Digits(nn.Module):
    """images [N, 1, 8, 8] in [0, 1] → logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(1, 16)
        self.widen = unit(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.block = Residual(32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.pool(self.widen(self.stem(x))))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images, test images (fp32 [N, 1, 8, 8] in [0, 1]) and their labels (int64 [N])."""
    images, labels = load_digits(return_X_y=True)
    scaled = (images / PIXEL_MAXIMUM).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(scaled, labels.astype(np.int64), test_size=0.3, random_state=SEED, stratify=labels)
    return parts[0], parts[1], parts[2], parts[3]


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to one pixel in either direction."""
    windows = nn.functional.pad(images, (1, 1, 1, 1)).unfold(2, 8, 1).unfold(3, 8, 1)
    rows, columns = torch.randint(0, 3, (2, len(images)))
    return windows[torch.arange(len(images)), :, rows, columns]


def train(images: np.ndarray, labels: np.ndarray) -> Digits:
    """The network after `EPOCHS` over the training images."""
    torch.manual_seed(SEED)
    network, x, y = Digits(), torch.from_numpy(images), torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(network(shifted(x[rows])), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def export(network: Digits, path: Path) -> None:
    """PyTorch's TorchScript exporter; PRESERVE keeps the batch normalisations, which are convc's to fold."""
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 8, 8),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=OPSET,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )


def main() -> None:
    started = time.perf_counter()
    train_images, test_images, train_labels, test_labels = data()
    network = train(train_images, train_labels)
    with torch.no_grad():
        correct = network(torch.from_numpy(test_images)).argmax(1).numpy() == test_labels
    print(f"{correct.sum()} of {len(correct)} test images right ({correct.mean():.2%})")
    export(network, HERE / "digits.onnx")
    pixels = np.rint(test_images * PIXEL_MAXIMUM).astype(np.uint8)
    np.savez_compressed(HERE / "test.npz", pixels=pixels, labels=test_labels.astype(np.uint8))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
