"""Everything that needs a GPU, in one command: `make gpu-pack`, `make gpu`, `make gpu-report`; see docs/gpu.md.

`pack` compiles, on a machine without a GPU, every kernel that the suite asks for. `run` measures, on the machine with
the GPU, step by step, each in a process of its own. `report` makes tables and plots of what came back.
"""
