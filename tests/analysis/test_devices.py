"""What a device's name means: where a network runs, and for what it is compiled."""

from __future__ import annotations

from typing import Any

import pytest

import convc.api
from convc import backend, errors
from convc.analysis import ablate, bench, bisect, models, stages, tune, verify
from convc.analysis.devices import resolved_device, target_for
from convc.analysis.models import Choices
from convc.runtime.devices import parse_device

MODEL = "zoo:perceptron"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU 0 is an A100, GPU 1 an H100, and number 2 is not there."""
    found = ("sm_80", "sm_90", "interpreter")
    monkeypatch.setattr(convc.api, "present_target", lambda ordinal=0: found[ordinal])


def test_names() -> None:
    assert [parse_device(name) for name in ("auto", "cuda", "cuda:12", "numpy")] == [
        ("auto", 0),
        ("cuda", 0),
        ("cuda", 12),
        ("numpy", 0),
    ]


@pytest.mark.parametrize(
    "name", ["gpu", "", "cuda:", "cuda:-1", "cuda:1000", "cuda:¹", "numpy:0", "auto:1", "cuda:1:2"]
)
def test_what_is_no_name(name: str) -> None:
    for asked in (parse_device, resolved_device, target_for):
        with pytest.raises(errors.UsageError, match=r"unknown device .*cuda:N"):
            asked(name)


@pytest.mark.usefixtures("gpus")
def test_kernels_are_for_the_gpu_of_that_number() -> None:
    names = ("auto", "cuda", "cuda:0", "cuda:1", "cuda:2", "interpreter", "numpy")
    found = ["sm_80", "sm_80", "sm_80", "sm_90", "interpreter", "interpreter", ""]
    assert [target_for(name) for name in names] == found
    assert [resolved_device(name) for name in names] == ["cuda", *names[1:]]


class _Planned(Exception):
    """Ends a command where it has planned."""


COMMANDS: dict[str, Any] = {
    "convc.verify": lambda device: verify.verify(MODEL, device),
    "verify": lambda device: models.verify_model(MODEL, Choices(), device, 0),
    "verify --per-kernel": lambda device: bisect.verify_per_kernel(MODEL, Choices(), device, 0),
    "run": lambda device: models.open_network(MODEL, Choices(), device),
    "ablate": lambda device: ablate.ablate(MODEL, Choices(), device),
    "bench": lambda device: bench.bench(bench.Request(MODEL, None, None, None, None, device, None, False)),
    "tune": lambda device: tune.plan_for(MODEL, Choices(), tune.place_and_target(device, None, False)[1]),
    "backend": lambda device: backend._compiled(convc.graph_of(MODEL), device),
}


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("device", "target"), [("cuda:0", "sm_80"), ("cuda:1", "sm_90"), ("auto", "sm_80")])
def test_commands_plan_for_that_gpu(command: str, device: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def planned(graph: Any, options: convc.Options) -> None:
        asked.append(options.targets)
        raise _Planned

    for module in (convc.planner, ablate, backend, bench, tune, verify):
        monkeypatch.setattr(module, "make_plan", planned)
    with pytest.raises(_Planned):
        COMMANDS[command](device)
    assert asked == [(target,)]


def test_a_command_s_options_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--policy` and `--no-tuned` reach every way to a plan."""
    choices, asked = Choices(policy="never", tuned=False, dtype="bf16", batch=3), []

    def planned(graph: Any, options: convc.Options, *_: Any) -> None:
        asked.append((options.policy, options.tuned, options.dtype, options.batch))
        raise _Planned

    for module, name in ((convc.planner, "make_plan"), (tune, "make_plan"), (stages, "graph_after")):
        monkeypatch.setattr(module, name, planned)
    for planning in (
        lambda: models.make_plan(MODEL, choices, "sm_90", "fp16"),
        lambda: tune.plan_for(MODEL, choices, "sm_90"),
        lambda: stages.read_stage(MODEL, choices, "import", "sm_90", pictured=False),
    ):
        with pytest.raises(_Planned):
            planning()
    assert asked == [("never", False, "bf16", 3)] * 3


@pytest.mark.usefixtures("gpus")
def test_what_the_backend_says_it_supports_it_prepares() -> None:
    """By ONNX's names."""
    said = {name: backend.supports_device(name) for name in ("CPU", "INTERPRETER", "CUDA", "CUDA:0", "CUDA:1")}
    assert all(said.values())
    model = convc.export_onnx(convc.graph_of(MODEL))
    for name in said:
        assert isinstance(backend.prepare(model, name), backend.PreparedModel)
    for name in ("TPU", "cuda", "CUDA:", "CUDA:x", "CPU:1"):
        assert not backend.supports_device(name)
        with pytest.raises(errors.UsageError, match=r"unknown device .*CUDA:N"):
            backend.prepare(model, name)
    assert not backend.supports_device("CUDA:2")
