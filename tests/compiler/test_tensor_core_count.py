"""Tensor-core instructions are counted in the PTX: the machine code made from it holds as many."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import triton
from compiled import Builder, conv

import convc

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
MATRIX = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(?:HGMMA|HMMA)\b", re.MULTILINE)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_machine_code_holds_as_many(target, tmp_path):
    random = np.random.default_rng(0)
    b = Builder()
    x = b.input(random.standard_normal((1, 64, 16, 16)).astype(np.float32))
    b.output(conv(b, x, random.standard_normal((64, 64, 3, 3)).astype(np.float32), pads=(1,) * 4))
    network = convc.compile(b.graph, target=target)
    (kernel,) = network.plan.kernels
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(network.artifact.section(kernel.binary.section))
    shown = subprocess.run([CUOBJDUMP, "-sass", cubin], capture_output=True, text=True, check=True).stdout
    assert len(MATRIX.findall(shown)) == kernel.binary.tensor_core_instructions > 0
