"""Rules from outside convc: registered by a program, or supplied by an installed package.

An `Extension` joins the table of rules, so that it is switched, explained and ablated like any other. Nothing that it
does is taken on trust: behind its rewrite the graph's invariants are checked, and what it offers to fuse is checked
before it is taken (`convc.passes.offers`).
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from .. import errors
from ..ir import Graph, Node
from .choice import Choice
from .rules import LEVELS, RULES, Rule

GROUP = "convc.rules"
"""The entry points of installed packages that supply rules; each names an `Extension`."""

Rewrite = Callable[[Graph], bool]
"""Rewrites a graph in place and says whether it changed anything."""
Propose = Callable[[Graph, Node, Mapping[int, int]], Choice | str | None]
"""A rule's proposer: the graph, the node that may be the anchor or the end of a kernel, and the nodes that belong to
a kernel already (with its seed) → a legal fusion, or why there is none, or None where the rule has nothing to do with
the node."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Extension:
    """A rule from outside, with one of two functions, or both.

    rewrite: runs among the canonical passes, before batch normalisation is folded. propose: is asked about every node,
    in topological order, before convc's own rules are.

    Raises:
        UsageError: a name that cannot be switched, an unknown level, or no function.
    """

    rule: Rule
    rewrite: Rewrite | None = None
    propose: Propose | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.rule.name):
            raise errors.bad_rule_name(self.rule.name)
        if self.rule.level not in LEVELS:
            raise errors.one_of(self.rule.level, LEVELS, "level of a rule")
        if not callable(self.rewrite) and not callable(self.propose):
            raise errors.rule_without_function(self.rule.name)


_registered: dict[str, Extension] = {}


def register(extension: Extension) -> None:
    """Adds a rule, behind those that were registered before it.

    Raises:
        UsageError: a rule of that name exists.
    """
    if extension.rule.name in RULES:
        raise errors.duplicate_rule(extension.rule.name)
    RULES[extension.rule.name] = extension.rule
    _registered[extension.rule.name] = extension


def unregister(name: str) -> None:
    """Takes a registered rule out again.

    Raises:
        UsageError: no registered rule has that name; convc's own stay.
    """
    if name not in _registered:
        raise errors.one_of(name, _registered, "registered rule")
    del _registered[name], RULES[name]


@contextmanager
def registered(*extensions: Extension) -> Iterator[None]:
    """Registers rules for the length of a ``with`` block."""
    added: list[str] = []
    try:
        for extension in extensions:
            register(extension)
            added.append(extension.rule.name)
        yield
    finally:
        for name in added:
            unregister(name)


def from_outside() -> list[tuple[str, Propose]]:
    """The proposers that are registered, with the names of their rules."""
    return [(added.rule.name, added.propose) for added in extensions() if added.propose is not None]


def extensions() -> tuple[Extension, ...]:
    """What is registered, in that order; what installed packages supply comes first."""
    load_installed()
    return tuple(_registered.values())


@cache
def load_installed() -> None:
    """Registers what installed packages supply, once.

    Raises:
        UsageError: an entry point that cannot be loaded, or is no `Extension`.
    """
    for name, found in entry_points(GROUP):
        if not isinstance(found, Extension):
            raise errors.bad_entry_point(GROUP, name, f"expected a convc.Extension, found {type(found).__name__}")
        register(found)


def entry_points(group: str) -> Iterator[tuple[str, Any]]:
    """Names and objects of a group of entry points, by name.

    Raises:
        UsageError: one that cannot be loaded.
    """
    for point in sorted(importlib.metadata.entry_points(group=group), key=lambda point: point.name):
        try:
            yield point.name, point.load()
        except Exception as error:  # whatever a package does when it is imported
            raise errors.bad_entry_point(group, point.name, f"{type(error).__name__}: {error}") from error
