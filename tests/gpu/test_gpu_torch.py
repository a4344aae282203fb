"""The peers: networks of the zoo as torch modules with the same weights, folded and fused. These tests need torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers are torch's; nothing else needs it")

from bench.gpu import cases, numerics, peers, speed  # noqa: E402
from bench.gpu.cases import NETWORKS, graph_of  # noqa: E402
from bench.gpu.graph_module import as_tensor, module_of  # noqa: E402
from bench.gpu.torch_reference import in_fp32, module_in_fp32  # noqa: E402
from convc.analysis.comparison import relative_error  # noqa: E402
from convc.planner import bind_batch  # noqa: E402

SMALL = ("resnet18", "squeezenet1_1", "mobilenet_v2")


def error(network: str, batch: int = 2) -> float:
    images = numerics.images_of(network, "fp32", batch, 0)
    return relative_error(numerics.in_numpy(network, "fp32", images), in_fp32(network, "fp32", images))


@pytest.mark.parametrize("network", SMALL)
def test_modules_compute_what_the_graph_says(network: str) -> None:
    assert error(network) < numerics.bound_of_peers(network, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_all_nine_networks(network: str) -> None:
    assert error(network, 1) < numerics.bound_of_peers(network, "fp32")


@pytest.mark.parametrize("name", ["eager", "folded", "fused-calls"])
@pytest.mark.parametrize("network", SMALL)
def test_peers_compute_the_same(name: str, network: str) -> None:
    """Prepared with one image, replayed with another, over a poisoned output."""
    before, images = (numerics.images_of(network, "fp32", 2, seed) for seed in (0, 1))
    fixed = peers.images_on("cpu", before)
    module = module_in_fp32(network, "fp32")
    parameters = [parameter.clone() for parameter in module.parameters()]
    captured = peers.prepared(peers.PEERS[name], module, fixed)
    fixed.copy_(peers.images_on("cpu", images))
    captured.poison()
    assert np.isnan(captured.result()).all()
    captured.replay()
    bound = numerics.bound_of_peers(network, "fp32")
    assert relative_error(in_fp32(network, "fp32", images), captured.result()) < bound < 1e-2
    assert all(torch.equal(a, b) for a, b in zip(parameters, module.parameters(), strict=True)), (
        "the module is not changed"
    )


def test_peers_are_channels_last_and_folded() -> None:
    images = peers.images_on("cpu", numerics.images_of("resnet18", "fp32", 2, 0))
    made = peers.PEERS["folded"].prepare(module_of(bind_batch(graph_of("resnet18", "fp32"), 1)), images)
    assert isinstance(made, torch.nn.Module)
    kinds = [type(each).__name__ for each in made.modules()]
    assert "BatchNorm2d" not in kinds and kinds.count("Conv2d") == 20
    conv = next(each for each in made.modules() if isinstance(each, torch.nn.Conv2d))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("network", "sites", "sums"), [("resnet18", 17, 8), ("squeezenet1_1", 26, 0), ("mobilenet_v2", 0, 0)]
)
def test_sites_of_fused_calls(network: str, sites: int, sums: int) -> None:
    module = peers.with_fused_calls(peers.folded(module_of(bind_batch(graph_of(network, "fp32"), 1))))
    calls = [node for node in module.graph.nodes if str(node.target).startswith("call") and node.op == "call_module"]
    assert (len(calls), sum(len(node.args) == 2 for node in calls)) == (sites, sums)


def test_bfloat16_images_keep_their_values() -> None:
    images = numerics.images_of("resnet18", "bf16", 1, 0)
    assert as_tensor(images).dtype is torch.bfloat16
    np.testing.assert_array_equal(as_tensor(images).float().numpy(), images.astype(np.float32))


def test_what_has_no_counterpart_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="no counterpart"):
        module_of(bind_batch(graph_of("lenet5", "fp32"), 1))


def test_a_cell_with_peers(fake: Any, setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but the peers, on the CPU; one that there is no time for is told."""
    monkeypatch.setattr("bench.gpu.device.FLUSH_BYTES", 1 << 12)
    monkeypatch.setattr(cases, "variants_of", lambda *_: ())
    given = setting("speed:squeezenet1_1:fp32")
    speed.speed(given, "squeezenet1_1", "fp32", (2,), peers=("eager", "folded"))
    cell = {row["key"]: row for row in given.journal.rows()}["squeezenet1_1-b2-fp32"]
    assert {name: found["ok"] for name, found in cell["contestants"].items()} == {"eager": True, "folded": True}
    assert all(found["kind"] == "peer" and "warm" in found for found in cell["contestants"].values())
    late = setting("speed:squeezenet1_1:late", seconds=20.0)
    speed.speed(late, "squeezenet1_1", "fp32", (2,), peers=("eager", "inductor"))
    cell = {row["key"]: row for row in late.journal.rows() if row["step"] == late.step}["squeezenet1_1-b2-fp32"]
    assert cell["refused"] == dict.fromkeys(("eager", "inductor"), "no time left to prepare it")
