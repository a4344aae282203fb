"""How much the importer accepts; checked before any work is done."""

from __future__ import annotations

FILE_BYTES = 2 << 30
TENSOR_BYTES = 4 << 30
FOLDED_BYTES = 256 << 20
FOLDED_TOTAL_BYTES = 2 << 30
NODES = 100_000
SUBGRAPH_DEPTH = 32
RANK = 8
OLDEST_IR = 3
OLDEST_OPSET = 6
"""Older operator sets are read as far as their operators mean the same in this one."""
