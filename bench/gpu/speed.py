"""Cells: one network at one batch size in one numeric mode, convc and the peers side by side.

A contestant that is not right is not timed: on images that were not there when it was prepared, with its output filled
with NaN, it must be as near to fp32 as rounding allows (`numerics.bound_of`; for the peers the bound of a network that
rounds behind every operator).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from convc import errors
from convc.analysis.comparison import relative_error

from . import artifacts, numerics
from .cases import Case, cell
from .contestants import Contestant, of_artifact, of_peer, on_stream
from .device import Gpu, opened_gpu
from .setting import Abandoned, Setting, is_lost
from .timing import measure

TIMING_S = 20.0
"""What is kept of the step's time for measuring a cell, and for every cell that is still to come."""
SEED = 7
TOOK_S: dict[str, float] = {}
"""What preparing each contestant took in this process, with some to spare."""


def speed(
    setting: Setting, network: str, dtype: str, batches: Sequence[int], peers: Sequence[str] | None = None
) -> None:
    """The cells of a network, each a row. peers: their names; by default the usual ones where torch is there."""
    wanted = usual_peers() if peers is None else peers
    with opened_gpu() as gpu, on_stream(gpu):
        left = [batch for batch in batches if f"{network}-b{batch}-{dtype}" not in setting.journal.known(setting.step)]
        for place, batch in enumerate(left):
            Cell(setting, gpu, network, dtype, batch, reserve_s=TIMING_S * (len(left) - place)).run(wanted)


def usual_peers() -> Sequence[str]:
    """Names of the peers; none where torch is not there."""
    if importlib.util.find_spec("torch") is None:
        return ()
    from .peers import USUAL

    return USUAL


class Cell:
    """One of them. Contestants are noted as begun, so that one that ends the process, or loses its GPU, is left out
    when the cell is measured again."""

    def __init__(self, setting: Setting, gpu: Gpu, network: str, dtype: str, batch: int, reserve_s: float) -> None:
        self.setting, self.gpu, self.reserve_s = setting, gpu, reserve_s
        self.network, self.dtype, self.batch = network, dtype, batch
        self.key = f"{network}-b{batch}-{dtype}"
        self.refused: dict[str, str] = {}
        self.contestants: list[Contestant] = []
        self.gates: dict[str, dict[str, Any]] = {}
        self.images, self.picked, self.expected = numerics.examined(network, dtype, batch, SEED)

    def run(self, peers: Sequence[str]) -> None:
        with self.setting.measuring(self.key) as found:
            found |= {"network": self.network, "batch": self.batch, "dtype": self.dtype}
            try:
                equal = self._add_convc()
                self._add_peers(peers)
                right = {each.name: each.replay for each in self.contestants if self.gates[each.name]["ok"]}
                times, found["gpu"] = self._timed(right)
                found["contestants"] = {
                    each.name: {**each.about, **self.gates[each.name], **times.get(each.name, {})}
                    for each in self.contestants
                }
                found |= {"equal": equal, "refused": self.refused}
            finally:
                for each in self.contestants:
                    each.close()

    def _timed(self, right: dict[str, Callable[[], None]]) -> tuple[dict[str, Any], dict[str, Any]]:
        if not right:
            return {}, {}
        if not self._begin("timing"):
            raise errors.UsageError("a process did not survive the timing of this cell")
        times = measure(self.gpu, right, self.setting.effort)
        self.setting.put(f"{self.key} timing")
        return times

    def _begin(self, name: str) -> bool:
        """Notes that something of this cell begins; False where an earlier process did not survive it."""
        key = f"{self.key} {name}"
        return self.setting.journal.begin(self.setting.step, key) or not self.setting.journal.failed(
            self.setting.step, key
        )

    def _add_convc(self) -> dict[str, str]:
        """convc's variants; those that launch what another one launches are not run twice, and are told."""
        compiled = []
        for case in cell(self.network, self.dtype, self.batch):
            try:
                compiled.append((case.variant, self.setting.artifact(case)))
            except errors.ConvcError as error:
                self.refused[f"convc {case.variant}"] = str(error)[:300]
        kept, equal = artifacts.distinct(compiled)
        for variant, artifact in kept.items():
            self._add(f"convc {variant}", partial(of_artifact, artifact=artifact, images=-self.images, gpu=self.gpu))
        return {f"convc {name}": f"convc {other}" for name, other in equal.items()}

    def _add_peers(self, names: Sequence[str]) -> None:
        if not names:
            return
        from . import peers
        from .torch_reference import device, module_in_fp32

        peers.allow_tf32(self.dtype)
        module = module_in_fp32(self.network, self.dtype)
        for name in names:
            needed_s = TOOK_S.get(name, peers.PEERS[name].seconds)
            if self.setting.left_s - self.reserve_s < needed_s:
                self.refused[name] = "no time left to prepare it"
            else:
                self._add(name, partial(of_peer, module=module, images=-self.images, device=device()))

    def _add(self, name: str, make: Callable[[str], Contestant]) -> None:
        """Prepares a contestant and looks whether it is right."""
        if not self._begin(name):
            self.refused[name] = "a process did not survive it"
            return
        started = time.monotonic()
        try:
            self.contestants.append(make(name))
            TOOK_S[name] = 1.5 * (time.monotonic() - started)
            self.gates[name] = self._gate(self.contestants[-1])
        except Exception as error:  # whatever one contestant fails with, the others go on
            self.refused[name] = f"{type(error).__name__}: {error}"[:300]
            self.contestants = [each for each in self.contestants if each.name != name]
            if is_lost(error):
                self.setting.failed(f"{self.key} {name}", error)
                raise Abandoned from error
        self.setting.put(f"{self.key} {name}")

    def _gate(self, contestant: Contestant) -> dict[str, Any]:
        if contestant.about["kind"] == "peer":
            bound = numerics.bound_of_peers(self.network, self.dtype)
        else:
            variant = contestant.name.removeprefix("convc ")
            bound = numerics.bound_of(Case(self.network, self.batch, self.dtype, variant))
        contestant.show(self.images)
        contestant.poison()
        self.gpu.synchronize()
        contestant.replay()
        self.gpu.synchronize()
        found = contestant.result()[list(self.picked)]
        error = relative_error(self.expected, found)
        top1 = float((found.argmax(axis=1) == self.expected.argmax(axis=1)).mean())
        return {"rel_l2": error, "bound": bound, "top1": top1, "ok": error <= bound}
