"""convc: a compiler for convolutional networks. See `convc.api` for what is public.

Importing convc is cheap: everything is imported when it is first named, so that running a compiled network needs
neither the compiler nor what the compiler needs.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from .version import __version__

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """`load` is in `convc.loading`, errors are in `convc.errors`, submodules by their name, the rest in the API."""
    if name.startswith("_"):
        raise AttributeError(f"module 'convc' has no attribute {name!r}")
    if name == "load":
        return importlib.import_module("convc.loading").load
    if name.endswith("Error"):
        return getattr(importlib.import_module("convc.errors"), name)
    if importlib.util.find_spec(f"convc.{name}") is not None:
        return importlib.import_module(f"convc.{name}")
    return getattr(importlib.import_module("convc.api"), name)
