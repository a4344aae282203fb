"""The command line: ``convc COMMAND MODEL …``.

Results go to standard output, progress and prose to standard error. Exit status: 0 done, 1 a check did not hold, 2
unusable input or usage (one line, no traceback), 130 interrupted. Only click is imported here; what a command
needs is imported when it runs, so that ``convc --help`` is quick.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import errors
from .version import __version__

if TYPE_CHECKING:
    from .analysis.models import Choices, Progress

DEFAULT_TARGET = "sm_90"


# -- errors and output ------------------------------------------------------------------------------------------------
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
    return errors.system_refused(error) if isinstance(error, OSError) else errors.unforeseen(error)


def _drop_standard_output() -> None:
    """What is still to be written goes nowhere, so that the interpreter does not fail again on its way out."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _print(as_json: bool, report: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> None:
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
def _progress(what: str = "kernels") -> Iterator[Progress | None]:
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


def _require_writable(path: str) -> None:
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


# -- options ----------------------------------------------------------------------------------------------------------
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _batch(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    if text == "dynamic":
        raise errors.dynamic_batch()
    return _size(text)


def _size(text: str) -> int:
    """A batch of 1 or more, in at most nine digits."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise errors.bad_batch(text)
    return int(text)


_OPTIONS: dict[str, Decorator] = {
    "model": click.argument("model"),
    "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "target": click.option("--target", metavar="T,...", help=f"GPUs to compile for  [default: {DEFAULT_TARGET}]"),
    "dtype": click.option("--dtype", metavar="D", help="Numeric mode: fp32, tf32, fp16 or bf16."),
    "batch": click.option("--batch", metavar="N", callback=_batch, help="Size of a symbolic batch  [default: 1]"),
    "opt": click.option("--opt", metavar="O", help="none, fold or fuse  [default: fuse]"),
    "disable": click.option("--disable", metavar="RULE,...", help="Rules and features to switch off."),
    "enable": click.option("--enable", metavar="FEATURE,...", help="Features to switch on that are off by default."),
    "only": click.option("--only", metavar="RULE,...", help="The only rules to leave on."),
    "tuned": click.option("--tuned/--no-tuned", default=None, help="Use tiles that were measured  [default: yes]"),
    "policy": click.option("--policy", metavar="P", help="Who chooses among legal fusions  [default: cost-model]"),
    "seed": click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random arrays."),
}


def _options(*names: str) -> Decorator:
    """The shared options of these names."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return decorated


def _device(default: str) -> Decorator:
    text = "auto, cuda, cuda:N, interpreter or numpy"
    return click.option("--device", metavar="D", default=default, show_default=True, help=text)


def _choices(given: dict[str, Any]) -> Choices:
    """The options that decide how to compile, taken out of a command's options."""
    from .analysis.models import Choices

    names = ("target", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "tuned")
    return Choices(**{name: given[name] for name in names if name in given})


# -- commands ---------------------------------------------------------------------------------------------------------
@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="convc", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", count=True, help="Say what is done; twice: also tracebacks of errors.")
@click.pass_obj
def main(settings: Settings, verbose: int) -> None:
    """Compiles convolutional networks into fused Triton kernels.

    MODEL is a path to an ONNX file (.onnx), a compiled network (.convc), or zoo:NAME.
    """
    settings.verbose = verbose
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("convc: %(message)s"))
    log = logging.getLogger("convc")
    log.handlers, log.propagate = [handler], False
    log.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])


@main.command("compile")
@click.option("-o", "--output", metavar="FILE.convc", required=True, help="The file to write.")
@_options("model", "target", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "tuned", "json")
def compile_command(model: str, output: str, as_json: bool, **given: Any) -> None:
    """Compile a network into one file, for one or several GPUs. No GPU is needed."""
    from .analysis import models, render, reports

    start = time.perf_counter()
    if models.is_compiled(model):
        raise errors.compiled_already(model)
    _require_writable(output)
    plan = models.make_plan(model, _choices(given), DEFAULT_TARGET, "fp16")
    with _progress() as progress:
        network = models.compile_network(plan, progress)
    network.save(output)
    report = {"model": model, "artifact": output, "batch": plan.options.batch, **reports.compiled(network)}
    _print(as_json, report | {"seconds": time.perf_counter() - start}, render.compiled)


@main.command()
@click.option("--input", "inputs", metavar="NAME=FILE.npy", multiple=True, help="An input; random where not given.")
@click.option("--output", metavar="FILE.npz", help="Where to write the outputs.")
@click.option("--profile", is_flag=True, help="Time every launch.")
@click.option("--batches", metavar="N", type=click.IntRange(min=1), help="Run N batches, copies beside computation.")
@_device("auto")
@_options("model", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "tuned", "seed", "json")
def run(
    model: str,
    inputs: tuple[str, ...],
    output: str | None,
    profile: bool,
    batches: int | None,
    device: str,
    seed: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Run a network on arrays from files, or on random ones."""
    from .analysis import arrays, models, render, reports

    if output is not None:
        _require_writable(output)
    with _progress() as progress:
        network = models.open_network(model, _choices(given), models.target_for(device), progress=progress)
    values = arrays.random_inputs(network.inputs, seed) | arrays.given_inputs(inputs, network.inputs)
    with network.engine(device) as engine:
        results, ran = reports.ran(engine, values, batches)
        launches = {"profile": reports.profiled(engine, values)} if profile else {}
    if output is not None:
        arrays.write_arrays(output, results)
    report = {"model": model, "device": engine.device, "outputs": reports.outputs(results), **ran}
    _print(as_json, report | launches, render.ran)


@main.command()
@click.option("--per-kernel", is_flag=True, help="Also compare every kernel with float64, the fusion as it is.")
@_device("numpy")
@_options("model", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "seed", "json")
@click.pass_context
def verify(
    context: click.Context, model: str, per_kernel: bool, device: str, seed: int, as_json: bool, **given: Any
) -> None:
    """Compare a network with ONNX Runtime. Exit status 1 where it departs from it."""
    from .analysis import models, render

    with _progress() as progress:
        if per_kernel:
            from .analysis import bisect as kernelwise

            report = kernelwise.verify_per_kernel(model, _choices(given), device, seed, progress)
        else:
            report = models.verify_model(model, _choices(given), device, seed, progress).as_json()
    _print(as_json, report, render.verified)
    context.exit(0 if report["ok"] else 1)


@main.command()
@_device("interpreter")
@_options("model", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "seed", "json")
@click.pass_context
def bisect(context: click.Context, model: str, device: str, seed: int, as_json: bool, **given: Any) -> None:
    """Find the first kernel that departs from float64, the fusion as it is. Exit status 1 where there is one."""
    from .analysis import bisect as kernelwise
    from .analysis import render_edges

    with _progress() as progress:
        report = kernelwise.find_first(model, _choices(given), device, seed, progress)
    _print(as_json, report, render_edges.bisected)
    context.exit(0 if report["ok"] else 1)


@main.command()
@_options("model", "batch", "json")
def summary(model: str, batch: int | None, as_json: bool) -> None:
    """List the layers: output shape, parameters, multiply-adds, activation bytes, receptive field."""
    from .analysis import render
    from .analysis import summary as layers

    _print(as_json, layers.summarise_model(model, batch).as_json(), render.summarised)


@main.command()
@_options("model", "target", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "json")
def explain(model: str, as_json: bool, **given: Any) -> None:
    """Say of every edge into which kernel it was fused, or which rule came nearest and why it declined."""
    from .analysis import explain as edges
    from .analysis import render_edges

    report = edges.explain_model(model, _choices(given), DEFAULT_TARGET)
    _print(as_json, report, render_edges.explained)


@main.command()
@click.option("--after", metavar="PASS", help="The pass to stop behind  [default: fuse]")
@click.option("-o", "--output", metavar="FILE", help="Write text (.txt), a picture (.svg) or a page (.html).")
@_options("model", "target", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "json")
def show(model: str, after: str | None, output: str | None, as_json: bool, **given: Any) -> None:
    """Show the graph, after any pass, as text or as a picture with its fused kernels."""
    from .analysis import stages

    kind = Path(output).suffix if output is not None else ".txt"
    if kind not in (".txt", ".svg", ".html"):
        raise errors.output_suffix(str(output), (".txt", ".svg", ".html"))
    if output is not None:
        _require_writable(output)
    stage = stages.read_stage(model, _choices(given), after, DEFAULT_TARGET, pictured=kind != ".txt")
    report = {"after": stage.after, "graph": stage.text, "nodes": len(stage.graph), "file": output}
    if output is not None:
        from .runtime.artifact import write_file

        write_file(Path(output), [stages.drawn(stage, kind).encode("utf-8", "backslashreplace")])
    _print(as_json, report, lambda found: output if output is not None else found["graph"].rstrip("\n"))


@main.command()
@click.option("--name", metavar="K", help="Print the listing of one kernel.")
@click.option("--lint", is_flag=True, help="Check the machine code. Exit status 1 where a check does not hold.")
@_options("model", "target", "dtype", "batch", "opt", "disable", "enable", "only", "policy", "json")
@click.pass_context
def kernels(context: click.Context, model: str, name: str | None, lint: bool, as_json: bool, **given: Any) -> None:
    """List the emitted kernels, with registers, shared memory, spills and tensor-core instructions."""
    from .analysis import render, reports

    if lint:
        context.exit(_lint(model, name, as_json, _choices(given)))
    with _progress() as progress:
        found = reports.find_kernels(model, _choices(given), DEFAULT_TARGET, name, progress)
    if name is not None and not as_json:
        click.echo(found[0].listing().rstrip("\n"))
        return
    report = {"model": model, "kernels": [reports.kernel_row(kernel) for kernel in found]}
    _print(as_json, report, lambda shown: render.listed_kernels(shown["kernels"]))


def _lint(model: str, name: str | None, as_json: bool, choices: Choices) -> int:
    """Prints what a lint of compiled kernels says; the exit status that it means."""
    from .analysis import lint, lint_page

    with _progress() as progress:
        report = lint.lint_model(model, choices, DEFAULT_TARGET, name, progress)
    _print(as_json, report.as_json(), lambda _: lint_page.text(report))
    return 1 if report.findings else 0


@main.command()
@click.option("-o", "--output", metavar="FILE.html", help="Write a page with charts and the fused graph.")
@click.option("--png", metavar="DIR", help="Write the charts as PNG files into a folder.")
@click.option("--device", metavar="D", help="Also run there and compare with ONNX Runtime  [default: compare nothing]")
@_options("model", "target", "dtype", "batch", "policy", "seed", "json")
def ablate(
    model: str, output: str | None, png: str | None, device: str | None, seed: int, as_json: bool, **given: Any
) -> None:
    """Say what each rule is worth: the network with all rules, without each one, and with each one alone."""
    from .analysis import ablate as ablation
    from .analysis import ablation_page

    if output is not None:
        if Path(output).suffix != ".html":
            raise errors.output_suffix(output, (".html",))
        _require_writable(output)
    if output is not None or png is not None:
        ablation_page.require_charts()
    with _progress("configurations") as progress:
        found = ablation.ablate(model, _choices(given), device, seed, progress)
    written = ablation_page.write(found, output, png)
    _print(as_json, found.as_json() | written, lambda _: ablation_page.text(found, written))


@main.command()
@click.option("--opt", "opts", metavar="O,...", help="none, fold, fuse: any of them  [default: fuse]")
@click.option("--batch", "batches", metavar="N,...", help="Sizes of a symbolic batch  [default: 1]")
@click.option("--dtype", "dtypes", metavar="D,...", help="fp32, tf32, fp16, bf16: any of them  [default: fp16]")
@click.option("--target", metavar="T", help=f"What times are predicted for without a GPU  [default: {DEFAULT_TARGET}]")
@click.option("--repeats", type=click.IntRange(1), metavar="N", help="Runs that are timed.")
@click.option("--per-kernel", is_flag=True, help="A row for every launch.")
@_device("auto")
@_options("model", "policy", "seed", "json")
def bench(model: str, opts: str | None, batches: str | None, dtypes: str | None, as_json: bool, **given: Any) -> None:
    """Time a network on a device, at several levels of optimisation side by side."""
    from .analysis import bench as benchmark
    from .analysis import render

    sizes = [_size(text) for text in _listed(batches) or ()] or None
    with _progress() as progress:
        asked = benchmark.Request(model, _listed(opts), sizes, _listed(dtypes), **given)
        report = benchmark.bench(asked, progress)
    _print(as_json, report, render.benched)


@main.command()
@click.option("--prepare", is_flag=True, help="Only compile the candidates: no GPU is needed.")
@click.option(
    "--candidates", metavar="N", type=click.IntRange(2, 64), default=8, show_default=True, help="Tiles to try."
)
@click.option("--again", is_flag=True, help="Also measure what is known already.")
@click.option("--tables", metavar="DIR", help="The folder of the tables  [default: the user's cache]")
@_device("auto")
@_options("model", "target", "dtype", "batch", "opt", "disable", "enable", "only", "seed", "json")
def tune(
    model: str,
    prepare: bool,
    candidates: int,
    again: bool,
    tables: str | None,
    device: str,
    seed: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure which tiles are the fastest for a network on this GPU, and keep them for compiling."""
    from .analysis import models, render
    from .analysis import tune as tuning

    if models.is_compiled(model):
        raise errors.compiled_already(model)
    choices = _choices(given)
    device, target = tuning.place_and_target(device, choices.target, prepare)
    folder = Path(tables) if tables is not None else None
    asked = tuning.Request(model, choices, device, target, candidates, seed, prepare, again, folder)
    with _progress() as progress:
        report = tuning.tune(asked, progress)
    _print(as_json, report, render.tuned)


def _listed(text: str | None) -> list[str] | None:
    """Names separated by commas, each once; None where there was no option."""
    return None if text is None else list(dict.fromkeys(part.strip() for part in text.split(",")))


@main.group(invoke_without_command=True)
@_options("json")
@click.pass_context
def zoo(context: click.Context, as_json: bool) -> None:
    """List the networks of the zoo, or export one."""
    if context.invoked_subcommand is not None:
        return
    from .analysis import render
    from .frontends import zoo as networks

    _print(as_json, {"networks": networks.describe()}, lambda report: render.listed_networks(report["networks"]))


@zoo.command()
@click.argument("name")
@click.option("-o", "--output", metavar="FILE.onnx", required=True, help="The file to write.")
@click.option("--batch", default="1", show_default=True, metavar="N", help="A size, or the name of a symbolic one.")
@click.option("--opset", type=int, default=17, show_default=True)
@_options("seed", "json")
def export(name: str, output: str, batch: str, opset: int, seed: int, as_json: bool) -> None:
    """Write a network of the zoo as ONNX, with weights drawn from a seed."""
    from .frontends import zoo as networks
    from .frontends.export import export_onnx

    _require_writable(output)
    network = networks.build(name, batch=batch if batch.isidentifier() else _size(batch), seed=seed)
    export_onnx(network.graph, output, opset)
    report = {"name": name, "file": output, "batch": batch, "seed": seed, "opset": opset, "params": network.params}
    _print(as_json, report, lambda found: found["file"])


@main.command()
@_options("json")
def doctor(as_json: bool) -> None:
    """Say what this machine can do: GPUs, versions, the kernel cache."""
    from .analysis import machine, render

    _print(as_json, machine.examine(), render.machine)
