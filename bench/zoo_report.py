"""Every network of the zoo, listed, exported and verified: docs/zoo.md.

    python -m bench.zoo_report [--only NAME,…] [--largest GIGA] [--again] [--output FILE.md]

For each network: the layer table adds up to what the list says, the export passes ONNX's full check, and what the
compiled network computes agrees with ONNX Runtime on the exported file within the derived bound: on the numpy executor
in full size and fp32, and on the emitted kernels in Triton's interpreter in fp16, with a smaller input where the
network is large. Results are kept in build/zoo.json, and what is there is not found again. The exit status is 1 where a
network fails.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from bench.markdown import table
from convc.analysis.summary import summarise
from convc.analysis.verify import check_against
from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.frontends.dsl import Network
from convc.frontends.export import export_onnx
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.network import CompiledNetwork

ROOT = Path(__file__).resolve().parent.parent
PAGE, KEPT = ROOT / "docs" / "zoo.md", ROOT / "build" / "zoo.json"
LARGEST_INTERPRETED = 500_000_000
"""Multiply-adds up to which a network runs in the interpreter in full size."""
SIDES = {"unet": 188, "inception_v3": 75, "alexnet": 67, "zfnet": 97, "openpose": 32, "espcn": 32}
"""Sides of smaller inputs that still reach every kind of layer, where they are not `SIDE`."""
SIDE = 64
FILTERS = {"unet": 8, "alphago_policy": 32}
"""Filters of the first layer where a smaller input does not make a network small enough, or must not be smaller."""
TITLE = f"""# The zoo, verified

`make zoo` writes this page: every network of `convc zoo`, summed up (`convc summary`), exported (`convc zoo export`),
passed by ONNX's full check, and compared on seeded inputs with ONNX Runtime on the exported file, whose optimisations
are switched off. *Error, bound*: the largest absolute error, and the
[bound](numerics.md#how-a-result-is-judged) that the network's own rounding gives; of several outputs those of the one
nearest to its bound. On the numpy executor in fp32 and in full size, unless a smaller input stands beside it; for the
emitted kernels in Triton's interpreter in fp16, in full size up to {LARGEST_INTERPRETED // 10**6} M multiply-adds and
with a smaller input beyond. Where it is not in full size unet has {FILTERS["unet"]} filters in its first layer instead
of 64, and alphago_policy, whose input stays, {FILTERS["alphago_policy"]} instead of 192. *not run*: the script was
asked for others (`--only`)."""
NOT_RUN = "not run"
Row = dict[str, Any]


def reduced(name: str, macs: int) -> Network:
    """The network as the interpreter runs it."""
    if macs <= LARGEST_INTERPRETED:
        return zoo.build(name)
    smaller: dict[str, Any] = {"filters": FILTERS[name]} if name in FILTERS else {}
    if name != "alphago_policy":
        smaller["size"] = SIDES.get(name, SIDE)
    return zoo.build(name, **smaller)


def checked(net: Network, device: str, dtype: str) -> Row:
    """One network, compiled and compared with its exported file."""
    target = () if device == "numpy" else ("interpreter",)
    plan = make_plan(net.graph, Options(target, dtype))
    network = CompiledNetwork(compile_plan(plan))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exported.onnx"
        export_onnx(net.graph, str(file))
        onnx.checker.check_model(str(file), full_check=True)
        outputs = check_against(network, plan.graph, str(file), device).outputs
    worst = max(outputs, key=lambda output: output.max_abs / output.bound)
    return {"input": list(net.input_shape), "ok": all(o.ok for o in outputs), **asdict(worst)}


def row(listed: Row, largest: float = math.inf) -> Row:
    """One network of the list, tried in every way. largest: multiply-adds up to which numpy takes the full size."""
    name, macs = listed["name"], listed["macs"]
    net = zoo.build(name)
    summary = summarise(net.graph)
    adds_up = (summary.params, summary.macs) == (listed["params"], listed["macs"])
    runs = {
        "numpy": checked(net if macs <= largest else reduced(name, macs), "numpy", "fp32"),
        "interpreter": checked(reduced(name, macs), "interpreter", "fp16"),
    }
    return {**listed, "adds_up": adds_up, **runs}


def holds(found: Row) -> bool:
    return bool(found["adds_up"] and found["numpy"]["ok"] and found["interpreter"]["ok"])


def page(rows: list[Row]) -> str:
    """The table."""
    columns = ("network", "input", "parameters>", "M multiply-adds>", "numpy: error, bound>")
    lines = table((*columns, "interpreter: input", "error, bound>"), map(_cells, rows))
    return "\n".join([TITLE, "", *lines]) + "\n"


def _cells(found: Row) -> tuple[str, ...]:
    """One network: what the list says, and what was found, where it was run."""
    known = (found["name"], _shape(found["input_shape"]), f"{found['params']:,}", f"{found['macs'] / 1e6:,.1f}")
    if "numpy" not in found:
        return (*known, NOT_RUN, "", NOT_RUN)
    full, small = found["numpy"], found["interpreter"]
    errors = [f"{run['max_abs']:.1e}, {run['bound']:.1e}" for run in (full, small)]
    beside = f" ({_shape(full['input'])})" if full["input"] != found["input_shape"] else ""
    return (*known, errors[0] + beside, _shape(small["input"]), errors[1])


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape[1:]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,…", help="these networks, and others as they were found before")
    parser.add_argument(
        "--largest", type=float, default=math.inf, metavar="GIGA", help="multiply-adds on numpy, in 10⁹"
    )
    parser.add_argument("--again", action="store_true", help="forget what was found before")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE.md")
    given = parser.parse_args()
    kept: dict[str, Row] = json.loads(KEPT.read_text()) if KEPT.exists() and not given.again else {}
    chosen = given.only.split(",") if given.only else zoo.names()
    KEPT.parent.mkdir(exist_ok=True)
    for listed in zoo.describe():
        if listed["name"] not in chosen or listed["name"] in kept:
            continue
        found = kept[listed["name"]] = row(listed, given.largest * 1e9)
        KEPT.write_text(json.dumps(kept))
        print(f"{listed['name']}: {'holds' if holds(found) else 'FAILS'}", file=sys.stderr, flush=True)
    given.output.write_text(page([kept.get(listed["name"], listed) for listed in zoo.describe()]), encoding="utf-8")
    failed = [name for name in chosen if not holds(kept[name])]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} networks hold{': not ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
