"""What the tests of compiled kernels share."""

from __future__ import annotations

import pytest

from convc.codegen.cache import KernelCache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    """Kernels compiled by the tests of one module."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    return KernelCache(tmp_path_factory.mktemp("kernels"))
