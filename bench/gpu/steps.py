"""The steps of the suite, in the order of what they are worth, and what each does."""

from __future__ import annotations

from collections.abc import Callable

from . import facts, kernels, numerics, questions, speed
from .cases import BATCHES, NETWORKS, TUNED
from .device import opened_gpu
from .runner import Step
from .setting import Setting

CALLS = {
    "A": ("resnet50", "mobilenet_v2"),
    "B": ("resnet18", "vgg16", "densenet121"),
    "C": ("efficientnet_b0", "googlenet", "squeezenet1_1", "alexnet"),
}
"""Calls of at most nine minutes: the first has the facts and questions too, the second what resnet50 still lacks."""
assert {name for names in CALLS.values() for name in names} == set(NETWORKS)

MODES = ("bf16", "tf32")
"""Further numeric modes of resnet50."""


def all_steps() -> list[Step]:
    """Every step, call by call."""
    steps = [Step("facts", 60, "A"), Step("questions", 60, "A")]
    for call, networks in CALLS.items():
        steps += [Step(f"speed:{name}:fp16", 190, call) for name in networks]
        steps += [Step(f"numerics:{name}", 75, call) for name in networks]
        steps += [Step(f"kernels:{name}", 45, call) for name in networks]
        if call == "A":
            steps += [Step("numerics:families", 150, call)]
        if call == "C":
            steps += [Step(f"tune:{name}:{batch}", 150, call) for name, batch in TUNED]
        if call == "B":
            steps += [Step(f"speed:resnet50:{mode}", 120, call) for mode in MODES]
            steps += [Step("speed:resnet50:autotune", 300, call)]
    return steps


def cases_networks(steps: list[Step]) -> list[str]:
    """The networks that some steps ask for, in order."""
    named = (step.name.split(":")[1] for step in steps if ":" in step.name)
    return list(dict.fromkeys(name for name in named if name in NETWORKS))


def run_step(setting: Setting) -> None:
    """What the step of a setting does. The GPU is opened for all of it: its context is made once, and where there is
    none, nothing is measured.

    Raises:
        KeyError: a step that does not exist. DeviceError: no GPU.
    """
    kind, *arguments = setting.step.split(":")
    work = KINDS[kind]
    with opened_gpu():
        work(setting, *arguments)


def _numerics(setting: Setting, what: str) -> None:
    if what == "families":
        numerics.families(setting)
    else:
        numerics.network(setting, what, BATCHES)


def _speed(setting: Setting, network: str, mode: str) -> None:
    if mode == "autotune":
        usual = speed.usual_peers()  # none where torch is not there
        speed.speed(setting, network, "fp16", (32, 1), peers=("inductor-max", *usual) if usual else ())
    else:
        speed.speed(setting, network, mode, BATCHES)


def _tune(setting: Setting, network: str, batch: str) -> None:
    from . import tuning  # imports ONNX, which no other step needs

    tuning.tuned(setting, network, int(batch))


KINDS: dict[str, Callable[..., None]] = {
    "facts": facts.facts,
    "questions": questions.questions,
    "numerics": _numerics,
    "speed": _speed,
    "tune": _tune,
    "kernels": lambda setting, network: kernels.kernels(setting, network, BATCHES),
}
