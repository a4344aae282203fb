"""Which rules run, and which features kernels have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .. import errors
from ..targets import Target
from .extensions import load_installed
from .features import FEATURES
from .rules import LEVELS, RULES


@dataclass(frozen=True)
class Switches:
    """Which rules run: the level of ``--opt`` less the disabled ones, or just the ``only`` ones. Which features kernels
    have: those that are on by default less the disabled ones, and the enabled ones; ``only`` leaves them alone.

    Raises:
        UsageError: an unknown level, rule or feature; a feature both enabled and disabled.
    """

    opt: str = "fuse"
    disable: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    enable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        load_installed()
        if self.opt not in LEVELS:
            raise errors.one_of(self.opt, LEVELS, "optimisation level")
        for name in self.disable:
            if name not in RULES and name not in FEATURES:
                raise errors.one_of(name, [*RULES, *FEATURES], "rule or feature")
        for name in self.only or ():
            if name not in RULES:
                raise errors.one_of(name, RULES, "rule")
        for name in self.enable:
            if name not in FEATURES:
                raise errors.one_of(name, FEATURES, "feature")
            if name in self.disable:
                raise errors.both_ways(name)

    @property
    def off(self) -> tuple[str, ...]:
        """The rules and features that are switched off by name: disabled, or rules not among the only ones."""
        left_out = () if self.only is None else (name for name in RULES if name not in self.only)
        return tuple(sorted({*self.disable, *left_out}))

    def on(self, name: str) -> bool:
        """Whether the rule runs."""
        if name in self.disable or (self.only is not None and name not in self.only):
            return False
        return LEVELS.index(RULES[name].level) <= LEVELS.index(self.opt)

    def feature(self, name: str) -> bool:
        """Whether kernels have the feature, where their target offers it."""
        return name in self.enable or (FEATURES[name].default and name not in self.disable)

    def machine(self, target: Target) -> Target:
        """The target with what these switches leave it of the features that a machine has."""
        return replace(
            target,
            descriptors=self.feature("descriptors"),
            im2col=self.feature("im2col"),
            programmatic=self.feature("programmatic-launch"),
        )

    @staticmethod
    def parse(
        opt: str,
        disable: Iterable[str] | str = (),
        only: Iterable[str] | str | None = None,
        enable: Iterable[str] | str = (),
    ) -> Switches:
        """From command-line text or sequences: names separated by commas."""
        return Switches(opt, _names(disable), None if only is None else _names(only), _names(enable))


def _names(given: Iterable[str] | str) -> tuple[str, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(sorted({part.strip() for part in parts if part.strip()}))
