"""How much the importer accepts; checked before any work is done."""

from __future__ import annotations

FILE_BYTES = 2 << 30
TENSOR_BYTES = 4 << 30
FOLDED_BYTES = 256 << 20
"""One evaluated constant; larger ones stay operators of the graph."""
FOLDED_TOTAL_BYTES = 2 << 30
FOLDED_MACS = 1 << 31
"""Multiply-accumulates in one operator on constants; NumPy takes about a second for them."""
NODES = 100_000
TURNS = 1_000
"""Turns of one loop, each of which is written out."""
SUBGRAPH_DEPTH = 32
RANK = 8
OLDEST_IR = 3
OLDEST_OPSET = 6
"""Older operator sets are read as far as their operators mean the same in this one."""
