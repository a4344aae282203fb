"""NASNet-A mobile, 4 @ 1056 (Zoph et al. 2017), as Keras defines it.

Each cell reads the two before it: ``p`` is the older one, and is brought to the newer one's size first.
"""

from __future__ import annotations

from ..dsl import Network, Tensor, concat

FILTERS, REPETITIONS = 44, 4

SUM = 0.5
"""Gain of what is added in pairs, so that cell after cell keeps its variance."""


def nasnet_mobile(net: Network, size: int = 224, classes: int = 1000) -> None:
    x = net.input(3, size, size).conv(32, 3, stride=2, bias=False, name="stem.conv")
    x = x.batch_norm(epsilon=1e-3, name="stem.bn")
    x, p = _reduction(x, None, FILTERS // 4, "stem1"), x
    x, p = _reduction(x, p, FILTERS // 2, "stem2"), x
    for stage in range(3):
        filters = FILTERS << stage
        if stage:
            x, p = _reduction(x, p, filters, f"reduction{stage}"), x
        for repetition in range(REPETITIONS):
            x, p = _normal(x, p, filters, f"stage{stage + 1}.cell{repetition + 1}"), x
    net.output(x.relu().global_avg_pool().dense(classes).softmax())


def _normal(x: Tensor, p: Tensor, filters: int, name: str) -> Tensor:
    p, h = _adjusted(p, x, filters, f"{name}.p"), _squeezed(x, filters, f"{name}.h")
    blocks = [
        _sum(_separable(h, filters, 5, 1, f"{name}.1a"), _separable(p, filters, 3, 1, f"{name}.1b"), f"{name}.1"),
        _sum(_separable(p, filters, 5, 1, f"{name}.2a"), _separable(p, filters, 3, 1, f"{name}.2b"), f"{name}.2"),
        _sum(_mean(h, f"{name}.3a"), p, f"{name}.3"),
        _sum(_mean(p, f"{name}.4a"), _mean(p, f"{name}.4b"), f"{name}.4"),
        _sum(_separable(h, filters, 3, 1, f"{name}.5a"), h, f"{name}.5"),
    ]
    return concat([p, *blocks], name=name)


def _reduction(x: Tensor, p: Tensor | None, filters: int, name: str) -> Tensor:
    p = x if p is None else _adjusted(p, x, filters, f"{name}.p")
    h = _squeezed(x, filters, f"{name}.h")
    padded = h.pad(_same(h, 3), name=f"{name}.h.pad")
    one = _sum(_separable(h, filters, 5, 2, f"{name}.1a"), _separable(p, filters, 7, 2, f"{name}.1b"), f"{name}.1")
    largest = padded.max_pool(3, stride=2, name=f"{name}.2a")
    two = _sum(largest, _separable(p, filters, 7, 2, f"{name}.2b"), f"{name}.2")
    mean = padded.avg_pool(3, stride=2, name=f"{name}.3a")
    three = _sum(mean, _separable(p, filters, 5, 2, f"{name}.3b"), f"{name}.3")
    four = _sum(two, _mean(one, f"{name}.4b"), f"{name}.4")
    five = _sum(
        _separable(one, filters, 3, 1, f"{name}.5a"), padded.max_pool(3, stride=2, name=f"{name}.5b"), f"{name}.5"
    )
    return concat([two, three, four, five], name=name)


def _adjusted(p: Tensor, x: Tensor, filters: int, name: str) -> Tensor:
    """``p`` with x's sides and ``filters`` channels: halved by two paths, one of them moved by a pixel."""
    if p.shape[2:] == x.shape[2:]:
        return p if p.channels == filters else _squeezed(p, filters, name)
    p = p.relu(name=f"{name}.relu")
    moved = p.pad((0, 0, 1, 1), name=f"{name}.pad")[:, :, 1:, 1:]
    halves = [
        path.avg_pool(1, stride=2, name=f"{name}.{which}.pool").conv(
            filters // 2, 1, bias=False, name=f"{name}.{which}.conv"
        )
        for which, path in (("even", p), ("odd", moved))
    ]
    return concat(halves, name=name).batch_norm(epsilon=1e-3, gain=SUM, name=f"{name}.bn")


def _squeezed(x: Tensor, filters: int, name: str) -> Tensor:
    y = x.relu(name=f"{name}.relu").conv(filters, 1, bias=False, name=f"{name}.conv")
    return y.batch_norm(epsilon=1e-3, gain=SUM, name=f"{name}.bn")


def _separable(x: Tensor, filters: int, kernel: int, stride: int, name: str) -> Tensor:
    """Twice ReLU, depthwise and 1x1 convolution, batch-norm."""
    for step in (1, 2):
        part = f"{name}.{step}"
        x = x.relu(name=f"{part}.relu")
        x = x.depthwise(kernel, stride if step == 1 else 1, "same", bias=False, name=f"{part}.dw")
        x = x.conv(filters, 1, bias=False, name=f"{part}.pw")
        x = x.batch_norm(epsilon=1e-3, gain=SUM if step == 2 else 1, name=f"{part}.bn")
    return x


def _mean(x: Tensor, name: str) -> Tensor:
    return x.avg_pool(3, 1, "same", name=name)


def _sum(a: Tensor, b: Tensor, name: str) -> Tensor:
    return a.add(b, name=name)


def _same(x: Tensor, kernel: int) -> tuple[int, ...]:
    """Zeros in front of a window of stride 2, an odd number of them with the larger half behind."""
    begin = [kernel // 2 - (int(side) + 1) % 2 for side in x.shape[2:]]  # type: ignore[arg-type]
    return (*begin, kernel // 2, kernel // 2)
