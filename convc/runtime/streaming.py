"""The order in which batches go through a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .. import errors

LANES = 2
"""Batches that may be launched and not collected; a pipeline has buffers for so many."""


class Stages(Protocol):
    """What a pipeline offers; see `convc.runtime.pipeline.Pipeline`."""

    @property
    def pending(self) -> int: ...

    def upload(self, inputs: list[Any]) -> None: ...

    def launch(self) -> None: ...

    def collect(self) -> list[Any]: ...


def overlapped(
    pipeline: Stages, batches: Iterable[list[Any]], in_use: AbstractContextManager[None]
) -> Iterator[list[Any]]:
    """The results of every batch, in order. in_use: entered for every step.

    An error of ``batches``, and of a batch, is raised behind the results of the batches in front of it, as far as these
    can still be had.
    """
    source, failure = iter(batches), None
    while failure is None:
        try:
            batch = next(source)
        except StopIteration:
            break
        except Exception as error:  # whatever it is, what is under way comes first
            failure = error
            break
        results = None
        try:
            with in_use:
                pipeline.upload(batch)
                if pipeline.pending == LANES:
                    results = pipeline.collect()
                pipeline.launch()
        except errors.ConvcError as error:
            failure = error
        if results is not None:
            yield results
    while pipeline.pending:
        try:
            with in_use:
                results = pipeline.collect()
        except errors.ConvcError:
            if failure is None:
                raise
            break
        yield results
    if failure is not None:
        raise failure
