"""`make conformance`: the cases of `onnx.backend.test` that the installed onnx ships, counted by tier.

    make conformance                          all cases on the numpy executor, T1 and T2 on the interpreter as well
    make conformance ARGS='--tier T1 --show'  one tier, with the message of each refusal
    make conformance ARGS=--record            writes what was found as what is expected from now on

Each case ends in one of five ways: *pass*; *host*, which passes too, but not all of it in kernels: some of its
operators are steps in NumPy between them; *refused* (`UnsupportedModelError`, or an element type or a kind of input
that convc does not have, by name); *wrong* (another number, shape or element type than the case expects); *error*
(anything else). What is expected of each stands in ``onnx_backend.csv``, with the case's tier: T1 is what
classification networks need, T2 what segmentation, detection and generation do, T3 the same operators on other element
types and the rest that may come up in a convolutional network, OUT everything else. Anything worse than expected fails;
so does a wrong answer in T1 to T3, and fewer passes than convc promises (`LEAST`). (Two cases of OUT, causal attention
in fp16, whole and written out, expect what NumPy adds up in fp16; convc adds in fp32, which is closer to the exact
result.)

The official runner counts a backend's "not supposed to implement it" as a pass; this one does not.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from convc import backend, errors

RECORD = Path(__file__).parent / "onnx_backend.csv"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
TIERS = ("T1", "T2", "T3", "OUT")
OUTCOMES = ("pass", "host", "refused", "wrong", "error")
PASSES = ("pass", "host")
LEAST = {"CPU": {"T1": 266, "T2": 457}, "INTERPRETER": {"T1": 266, "T2": 457}}
"""Devices whose results are recorded, and the passes by tier below which each fails. On the interpreter no other tiers
run."""
BETTER = {outcome: rank for rank, outcome in enumerate(reversed(OUTCOMES))}


@dataclass(frozen=True)
class Case:
    """A case of the suite, with its tier, and how it is expected to end on the numpy executor and on the interpreter,
    where it runs there."""

    name: str
    kind: str
    tier: str
    numpy: str
    interpreter: str = ""

    def expected(self, device: str) -> str:
        return self.interpreter if device == "INTERPRETER" else self.numpy


@dataclass(frozen=True)
class Result:
    """How a case ended on a device, and the message where it did not pass."""

    case: Case
    outcome: str
    message: str
    seconds: float
    device: str = "CPU"

    @property
    def gain(self) -> int:
        """Above 0 where it ended better than expected, below where worse."""
        expected = self.case.expected(self.device)
        return BETTER[self.outcome] - BETTER[expected] if expected else 0


# -- the recorded list ------------------------------------------------------------------------------------------------
def recorded() -> dict[str, Case]:
    """The cases of the list by name."""
    with RECORD.open(newline="") as file:
        return {row["name"]: Case(**row) for row in csv.DictReader(file)}


def record(results: Sequence[Result], cases: dict[str, Case]) -> None:
    """Writes the list with what was found; other cases stay."""
    found = {(result.case.name, result.device): result.outcome for result in results}
    with RECORD.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "kind", "tier", "numpy", "interpreter"])
        for name, case in sorted(cases.items()):
            outcomes = (found.get((name, device), case.expected(device)) for device in LEAST)
            writer.writerow([name, case.kind, case.tier, *outcomes])


# -- the suite --------------------------------------------------------------------------------------------------------
def shipped() -> dict[str, Any]:
    """The test cases that come with onnx, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own data divide by zero
        return {test.name: test for kind in KINDS for test in load_model_tests(kind=kind)}


Data = Iterator[tuple[list[Any], list[Any]]]


def opened(test: Any) -> tuple[onnx.ModelProto, Data]:
    """The model of a case, and its sets of inputs and outputs."""
    if test.model is not None:
        return test.model, _in_memory(test.data_sets)
    if test.model_dir is not None:
        folder = Path(test.model_dir)
        model = onnx.load(folder / "model.onnx")
        return model, _on_disk(model, folder)
    path = Path(onnx.__file__).parent.parent / test.url
    model = onnx.load(path)
    return model, _light(model, path)


def _in_memory(sets: Sequence[Any]) -> Data:
    for inputs, outputs in sets:
        yield [_array(item) for item in inputs], [_array(item) for item in outputs]


def _array(item: Any) -> Any:
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def _on_disk(model: onnx.ModelProto, folder: Path) -> Data:
    for data in sorted(folder.glob("test_data_set*")):
        yield _files(data, "input", model.graph.input), _files(data, "output", model.graph.output)


def _files(folder: Path, what: str, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    found = []
    for number, info in enumerate(infos):
        path = folder / f"{what}_{number}.pb"
        if not path.exists():
            break
        if info.type.HasField("sequence_type"):
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes())))
        elif info.type.HasField("optional_type"):
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes())))
        else:
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
    return found


def _light(model: onnx.ModelProto, path: Path) -> Data:
    """The whole networks: a ramp as input, and the result that lies beside the model."""
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [Runner.generate_dummy_data(info) for info in model.graph.input if info.name not in given]
    outputs = sorted(path.parent.glob(f"{path.stem}_output_*.pb"))
    yield inputs, [numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in outputs]


# -- running ----------------------------------------------------------------------------------------------------------
def run(case: Case, test: Any, device: str = "CPU") -> Result:
    """One case on a device."""
    start = time.perf_counter()
    outcome, message = _outcome(test, device)
    return Result(case, outcome, message, time.perf_counter() - start, device)


def _outcome(test: Any, device: str) -> tuple[str, str]:
    try:
        model, data = opened(test)
        with contextlib.closing(backend.prepare(model, device)) as prepared:
            for inputs, outputs in data:
                found = prepared.run(inputs)
                Runner.assert_similar_outputs(outputs, list(found), test.rtol, test.atol)
            outcome = "host" if prepared.on_host else "pass"
    except AssertionError as error:
        return "wrong", " ".join(str(error).split())
    except errors.UnsupportedModelError as error:
        return "refused", str(error)
    except errors.LoadError as error:
        return ("error" if error.__cause__ else "refused"), str(error)
    except Exception as error:  # anything that a model of the suite brings about is a result
        return "error", f"{type(error).__name__}: {error}"
    return outcome, ""


def run_all(cases: Sequence[Case], device: str = "CPU") -> list[Result]:
    """All cases in order. Raises `AssertionError` where onnx ships no case of that name."""
    tests = shipped()
    missing = [case.name for case in cases if case.name not in tests]
    assert not missing, f"the installed onnx {onnx.__version__} does not have {', '.join(missing[:5])}"
    return [run(case, tests[case.name], device) for case in cases]


# -- reporting --------------------------------------------------------------------------------------------------------
def table(results: Sequence[Result]) -> str:
    """One line a tier."""
    lines = [f"{'tier':6}{'cases':>7}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)]
    for tier in TIERS:
        counts = Counter(result.outcome for result in results if result.case.tier == tier)
        if counts:
            lines.append(f"{tier:6}{counts.total():7}" + "".join(f"{counts[outcome]:9}" for outcome in OUTCOMES))
    return "\n".join(lines)


def failures(results: Sequence[Result], device: str, complete: bool) -> list[str]:
    """What fails the run on a device, one line each. complete: whether all cases of their tiers ran."""
    lines = [
        f"{result.case.name}: {result.outcome} where {result.case.expected(device)} is recorded: {result.message[:300]}"
        for result in results
        if result.gain < 0
    ]
    wrong = [result.case.name for result in results if result.outcome == "wrong" and result.case.tier != "OUT"]
    if wrong:
        lines.append(f"{len(wrong)} wrong answers: {', '.join(wrong)}")
    passes = Counter(result.case.tier for result in results if result.outcome in PASSES)
    tiers = {result.case.tier for result in results} if complete else set()
    for tier, least in LEAST[device].items():
        if tier in tiers and passes[tier] < least:
            lines.append(f"{tier}: {passes[tier]} passes, at least {least} are promised")
    return lines


def report(results: Sequence[Result], device: str, seconds: float, show: bool) -> None:
    """Prints the table of a device and, where asked, what did not pass."""
    for result in results if show else ():
        if result.outcome not in PASSES:
            print(f"{result.case.tier} {result.outcome:8}{result.case.name}: {result.message[:200]}")
    print(f"onnx {onnx.__version__}, {device}, {seconds:.0f} s")
    print(table(results))
    better = [result.case.name for result in results if device in LEAST and result.gain > 0]
    if better:
        print(f"{len(better)} better than recorded ({', '.join(better[:5])}, ...): record them with ARGS=--record")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", action="append", choices=TIERS, help="this tier alone; may be repeated")
    parser.add_argument("--case", help="cases whose names hold this")
    parser.add_argument("--device", choices=list(backend.DEVICES), help="this device alone")
    parser.add_argument("--show", action="store_true", help="every case that does not pass, with its message")
    parser.add_argument("--record", action="store_true", help="write what was found as what is expected")
    options = parser.parse_args(arguments)
    known = recorded()
    named = [case for case in known.values() if not options.case or options.case in case.name]
    every: list[Result] = []
    found: list[str] = []
    for device in [options.device] if options.device else LEAST:
        start = time.perf_counter()
        tiers = options.tier or (LEAST[device] if device == "INTERPRETER" else TIERS)
        results = run_all([case for case in named if case.tier in tiers], device)
        report(results, device, time.perf_counter() - start, options.show)
        if device in LEAST:
            every += results
            found += failures(results, device, complete=not options.case)
    if options.record:
        record(every, known)
        return 0
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
