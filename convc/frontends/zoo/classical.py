"""The classical pattern [(CONV-ReLU)xN-POOL?]xM-(FC-ReLU)xK-SOFTMAX."""

from __future__ import annotations

from typing import Any

from ..dsl import Network


def classical(
    n: int,
    pool: bool,
    m: int,
    k: int,
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    filters: int = 16,
    units: int = 64,
    classes: int = 10,
    **options: Any,
) -> Network:
    """A network of that pattern with 3x3 convolutions of padding 1 and 2x2 max pooling.

    n: convolutions in a stage, 1 to 5. pool: whether a stage ends in pooling. m: stages. k: hidden dense layers, 0 to 2
    in the literature. shape: C, H, W of the input. filters: of the first stage; they double from stage to
    stage where it pools. options: of `Network`.

    Raises:
        ShapeError: more pooling stages than the input has room for.
    """
    kind = f"classical_{n}{'p' if pool else ''}_{m}_{k}"
    net = Network(kind, **options)
    x = net.input(*shape)
    for stage in range(m):
        for _ in range(n):
            x = x.conv(filters << stage if pool else filters, 3, padding=1).relu()
        if pool:
            x = x.max_pool(2)
    for _ in range(k):
        x = x.dense(units).relu()
    return net.output(x.dense(classes).softmax())
