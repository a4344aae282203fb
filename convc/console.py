"""What the commands of the command line share: their options, how results are printed, and how a failure ends.

Results go to standard output, progress and prose to standard error. Exit status: 0 done, 1 a check did not hold, 2
unusable input or usage (one line, no traceback), 130 interrupted.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import errors

if TYPE_CHECKING:
    from .analysis.models import Choices, Progress

DEFAULT_TARGET = "sm_90"


# -- Failures and output
@dataclass
class Settings:
    """The options in front of the command."""

    verbose: int = 0


class Commands(click.Group):
    """The group of commands; every failure ends in one line on standard error and an exit status."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **_: Any
    ) -> NoReturn:
        """Runs a command line and exits. ``args``: without the program's name; `sys.argv` where None."""
        given = list(sys.argv[1:] if args is None else args)
        settings = Settings()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            status = self._run(given, settings)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            status = _report(error, "--json" in given, settings.verbose)
        sys.exit(status)

    def _run(self, args: list[str], settings: Settings) -> int:
        try:
            with self.make_context("convc", args, obj=settings) as context:
                self.invoke(context)
        except click.exceptions.Exit as done:
            return done.exit_code
        return 0


def _report(error: BaseException, as_json: bool, verbose: int) -> int:
    """Prints an error; the exit status that it means."""
    if verbose >= 2:
        traceback.print_exception(error)
    known = _known(error)
    try:
        if as_json:
            click.echo(json.dumps({"error": known.as_json()}))
        sys.stdout.flush()
    except OSError:
        _drop_standard_output()
    from .analysis.render import printable

    with suppress(OSError):
        click.echo(f"convc: error: {printable(known)}", err=True)
    return 130 if isinstance(error, (KeyboardInterrupt, click.Abort)) else 2


def _known(error: BaseException) -> errors.ConvcError:
    """Any exception as one of convc's."""
    if isinstance(error, errors.ConvcError):
        return error
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return errors.interrupted()
    if isinstance(error, click.UsageError):
        return errors.bad_usage(error.format_message(), error.ctx.command_path if error.ctx else "convc")
    if isinstance(error, BrokenPipeError):
        return errors.reader_gone()
    if isinstance(error, MemoryError):
        return errors.no_memory(error)
    return errors.system_refused(error) if isinstance(error, OSError) else errors.unforeseen(error)


def _drop_standard_output() -> None:
    """What is still to be written goes nowhere, so that the interpreter does not fail again on its way out."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_report(as_json: bool, report: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> None:
    """A result: one JSON object, or text."""
    click.echo(json.dumps(_finite(report), ensure_ascii=False) if as_json else text(report))


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress_bar(what: str = "kernels") -> Iterator[Progress | None]:
    """A bar on standard error while kernels compile, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def require_writable(path: str) -> None:
    """Raises `OutputError` now where a file could not be written later."""
    import tempfile

    file = Path(path)
    try:
        if file.is_dir():
            raise errors.not_written(path, "it is a directory")
        if file.exists() and not file.is_file():
            raise errors.not_written(path, "it is not a regular file")
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except (OSError, ValueError) as error:
        raise errors.not_written(path, getattr(error, "strerror", None) or error) from error


def require_folder(path: str) -> None:
    """Raises `OutputError` now where files could not be written into a folder later, which may be missing yet."""
    import tempfile

    folder = Path(path)
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise errors.not_written(path, getattr(error, "strerror", None) or error) from error


# -- Options
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _batch(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A size; 0 for a dynamic batch."""
    return 0 if text == "dynamic" else None if text is None else batch_size(text, other="dynamic")


def _one_batch(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text == "dynamic":
        raise errors.dynamic_batch(f"{parameter.opts[0]} of convc {context.info_name}")
    return None if text is None else batch_size(text, parameter.opts[0])


def batch_size(text: str, option: str = "--batch", other: str = "") -> int:
    """A batch of 1 or more, in at most nine digits. other: what the option takes beside that."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise errors.bad_batch(text, option, other)
    return int(text)


def _dims(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, int] | None:
    """Names of open sizes with their numbers; a name may contain ``=``."""
    if text is None:
        return None
    pairs = [part.strip().rpartition("=") for part in text.split(",")]
    if not all(name and size.isascii() and size.isdigit() and len(size) < 10 and int(size) for name, _, size in pairs):
        raise errors.bad_dims(text)
    return {name: int(size) for name, _, size in pairs}


def _with_dims(command: Callable[..., Any]) -> Callable[..., Any]:
    help = "Numbers for open sizes, by their names."
    return click.option("--dims", metavar="NAME=SIZE,...", callback=_dims, help=help)(command)


def _batch_alone(command: Callable[..., Any]) -> Callable[..., Any]:
    size = "Size of a symbolic batch  [default: 1]"
    return click.option("--batch", metavar="N", callback=_one_batch, help=size)(_with_dims(command))


def _any_batch(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that also take a dynamic batch."""
    most = "Most images of a dynamic batch  [default: 32]"
    command = click.option("--max-batch", metavar="N", callback=_one_batch, help=most)(_with_dims(command))
    size = "Size of a symbolic batch, or any  [default: 1]"
    return click.option("--batch", metavar="N|dynamic", callback=_batch, help=size)(command)


_OPTIONS: dict[str, Decorator] = {
    "model": click.argument("model"),
    "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "target": click.option("--target", metavar="T,...", help=f"GPUs to compile for  [default: {DEFAULT_TARGET}]"),
    "dtype": click.option("--dtype", metavar="D", help="Numeric mode: fp32, tf32, fp16 or bf16."),
    "dims": _with_dims,
    "batch": _batch_alone,
    "any_batch": _any_batch,
    "opt": click.option("--opt", metavar="O", help="none, fold or fuse  [default: fuse]"),
    "disable": click.option("--disable", metavar="RULE,...", help="Rules and features to switch off."),
    "enable": click.option("--enable", metavar="FEATURE,...", help="Features to switch on that are off by default."),
    "only": click.option("--only", metavar="RULE,...", help="The only rules to leave on."),
    "tuned": click.option("--tuned/--no-tuned", default=None, help="Use tiles that were measured  [default: yes]"),
    "policy": click.option("--policy", metavar="P", help="Who chooses among legal fusions  [default: cost-model]"),
    "seed": click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random arrays."),
}


def options(*names: str) -> Decorator:
    """The shared options of these names."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return decorated


def device_option(default: str) -> Decorator:
    text = "auto, cuda, cuda:N, interpreter or numpy"
    return click.option("--device", metavar="D", default=default, show_default=True, help=text)


def choices_of(given: dict[str, Any]) -> Choices:
    """The options that decide how to compile, taken out of a command's options."""
    from .analysis.models import Choices

    names = ("target", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "tuned", "max_batch", "dims")
    return Choices(**{name: given[name] for name in names if name in given})


def listed(text: str | None) -> list[str] | None:
    """Names separated by commas, each once; None where there was no option."""
    return None if text is None else list(dict.fromkeys(part.strip() for part in text.split(",")))
