"""The command line: ``convc COMMAND MODEL …``.

Only click is imported here; what a command needs is imported when it runs, so that ``convc --help`` is quick. Output,
errors and exit status are those of `convc.console`.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import errors
from .console import (
    DEFAULT_TARGET,
    Commands,
    Settings,
    batch_size,
    choices_of,
    device_option,
    listed,
    options,
    print_report,
    progress_bar,
    require_folder,
    require_writable,
)
from .version import __version__

if TYPE_CHECKING:
    from .analysis.models import Choices


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
@options("model", "target", "dtype", "any_batch", "opt", "disable", "enable", "only", "policy", "tuned", "json")
def compile_command(model: str, output: str, as_json: bool, **given: Any) -> None:
    """Compile a network into one file, for one or several GPUs. No GPU is needed."""
    from .analysis import models, render, reports

    start = time.perf_counter()
    if models.is_compiled(model):
        raise errors.compiled_already(model)
    require_writable(output)
    choices = choices_of(given)
    if (opened := models.open_sizes(model, choices, DEFAULT_TARGET, "fp16")) is not None:
        opened.save(output)
        report = {"model": model, "artifact": output, **reports.left_open(opened)}
        print_report(as_json, report | {"seconds": time.perf_counter() - start}, render.left_open)
        return
    plan = models.make_plan(model, choices, DEFAULT_TARGET, "fp16")
    with progress_bar() as progress:
        network = models.compile_network(plan, progress)
    network.save(output)
    report = {"model": model, "artifact": output, **reports.batch_of(plan), **reports.compiled(network)}
    print_report(as_json, report | {"seconds": time.perf_counter() - start}, render.compiled)


@main.command()
@click.option("--input", "inputs", metavar="NAME=FILE.npy", multiple=True, help="An input; random where not given.")
@click.option("--output", metavar="FILE.npz", help="Where to write the outputs.")
@click.option("--profile", is_flag=True, help="Time every launch.")
@click.option("--batches", metavar="N", type=click.IntRange(min=1), help="Run N batches, copies beside computation.")
@device_option("auto")
@options("model", "dtype", "any_batch", "opt", "disable", "enable", "only", "policy", "tuned", "seed", "json")
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
        require_writable(output)
    with progress_bar() as progress:
        network = models.open_network(model, choices_of(given), device, progress=progress)
    given_arrays = arrays.given_inputs(inputs, network.inputs)
    values = arrays.random_inputs(network.inputs, seed, given_arrays) | given_arrays
    with network.sized(values).engine(device) as engine:
        results, ran = reports.ran(engine, values, batches)
        launches = {"profile": reports.profiled(engine, values)} if profile else {}
    if output is not None:
        arrays.write_arrays(output, results)
    report = {"model": model, "device": engine.device, "outputs": reports.outputs(results), **ran}
    print_report(as_json, report | launches, render.ran)


@main.command()
@click.option("--per-kernel", is_flag=True, help="Also compare every kernel with float64, the fusion as it is.")
@device_option("numpy")
@options("model", "dtype", "any_batch", "opt", "disable", "enable", "only", "policy", "seed", "json")
@click.pass_context
def verify(
    context: click.Context, model: str, per_kernel: bool, device: str, seed: int, as_json: bool, **given: Any
) -> None:
    """Compare a network with ONNX Runtime. Exit status 1 where it departs from it."""
    from .analysis import models, render

    with progress_bar() as progress:
        if per_kernel:
            from .analysis import bisect as kernelwise

            report = kernelwise.verify_per_kernel(model, choices_of(given), device, seed, progress)
        else:
            report = models.verify_model(model, choices_of(given), device, seed, progress).as_json()
    print_report(as_json, report, render.verified)
    context.exit(0 if report["ok"] else 1)


@main.command()
@device_option("interpreter")
@options("model", "dtype", "any_batch", "opt", "disable", "enable", "only", "policy", "seed", "json")
@click.pass_context
def bisect(context: click.Context, model: str, device: str, seed: int, as_json: bool, **given: Any) -> None:
    """Find the first kernel that departs from float64, the fusion as it is. Exit status 1 where there is one."""
    from .analysis import bisect as kernelwise
    from .analysis import render_edges

    with progress_bar() as progress:
        report = kernelwise.find_first(model, choices_of(given), device, seed, progress)
    print_report(as_json, report, render_edges.bisected)
    context.exit(0 if report["ok"] else 1)


@main.command()
@options("model", "batch", "json")
def summary(model: str, batch: int | None, dims: dict[str, int] | None, as_json: bool) -> None:
    """List the layers: output shape, parameters, multiply-adds, activation bytes, receptive field."""
    from .analysis import render
    from .analysis import summary as layers

    print_report(as_json, layers.summarise_model(model, batch, dims).as_json(), render.summarised)


@main.command()
@options("model", "target", "dtype", "any_batch", "opt", "disable", "enable", "only", "policy", "json")
def explain(model: str, as_json: bool, **given: Any) -> None:
    """Say of every edge into which kernel it was fused, or which rule came nearest and why it declined."""
    from .analysis import explain as edges
    from .analysis import render_edges

    report = edges.explain_model(model, choices_of(given), DEFAULT_TARGET)
    print_report(as_json, report, render_edges.explained)


@main.command()
@click.option("--after", metavar="PASS", help="The pass to stop behind  [default: fuse]")
@click.option("-o", "--output", metavar="FILE", help="Write text (.txt), a picture (.svg) or a page (.html).")
@options("model", "target", "dtype", "any_batch", "opt", "disable", "enable", "only", "policy", "json")
def show(model: str, after: str | None, output: str | None, as_json: bool, **given: Any) -> None:
    """Show the graph, after any pass, as text or as a picture with its fused kernels."""
    from .analysis import stages

    kind = Path(output).suffix if output is not None else ".txt"
    if kind not in (".txt", ".svg", ".html"):
        raise errors.output_suffix(str(output), (".txt", ".svg", ".html"))
    if output is not None:
        require_writable(output)
    stage = stages.read_stage(model, choices_of(given), after, DEFAULT_TARGET, pictured=kind != ".txt")
    report = {"after": stage.after, "graph": stage.text, "nodes": len(stage.graph), "file": output}
    if output is not None:
        from .runtime.artifact import write_file

        write_file(Path(output), [stages.drawn(stage, kind).encode("utf-8", "backslashreplace")])
    print_report(as_json, report, lambda found: output if output is not None else found["graph"].rstrip("\n"))


@main.command()
@click.option("--name", metavar="K", help="Print the listing of one kernel.")
@click.option("--lint", is_flag=True, help="Check the machine code. Exit status 1 where a check does not hold.")
@options("model", "target", "dtype", "any_batch", "opt", "disable", "enable", "only", "policy", "json")
@click.pass_context
def kernels(context: click.Context, model: str, name: str | None, lint: bool, as_json: bool, **given: Any) -> None:
    """List the emitted kernels, with registers, shared memory, spills and tensor-core instructions."""
    from .analysis import render, reports

    if lint:
        context.exit(_lint(model, name, as_json, choices_of(given)))
    with progress_bar() as progress:
        found = reports.find_kernels(model, choices_of(given), DEFAULT_TARGET, name, progress)
    if name is not None and not as_json:
        click.echo(found[0].listing().rstrip("\n"))
        return
    report = {"model": model, "kernels": [reports.kernel_row(kernel) for kernel in found]}
    print_report(as_json, report, lambda shown: render.listed_kernels(shown["kernels"]))


def _lint(model: str, name: str | None, as_json: bool, choices: Choices) -> int:
    """Prints what a lint of compiled kernels says; the exit status that it means."""
    from .analysis import lint, lint_page

    with progress_bar() as progress:
        report = lint.lint_model(model, choices, DEFAULT_TARGET, name, progress)
    print_report(as_json, report.as_json(), lambda _: lint_page.text(report))
    return 1 if report.findings else 0


@main.command()
@click.option("-o", "--output", metavar="FILE.html", help="Write a page with charts and the fused graph.")
@click.option("--png", metavar="DIR", help="Write the charts as PNG files into a folder.")
@click.option("--device", metavar="D", help="Also run there and compare with ONNX Runtime  [default: compare nothing]")
@options("model", "target", "dtype", "batch", "policy", "seed", "json")
def ablate(
    model: str, output: str | None, png: str | None, device: str | None, seed: int, as_json: bool, **given: Any
) -> None:
    """Say what each rule is worth: the network with all rules, without each one, and with each one alone."""
    from .analysis import ablate as ablation
    from .analysis import ablation_page

    if output is not None:
        if Path(output).suffix != ".html":
            raise errors.output_suffix(output, (".html",))
        require_writable(output)
    if png is not None:
        require_folder(png)
    if output is not None or png is not None:
        ablation_page.require_charts()
    with progress_bar("configurations") as progress:
        found = ablation.ablate(model, choices_of(given), device, seed, progress)
    written = ablation_page.write(found, output, png)
    print_report(as_json, found.as_json() | written, lambda _: ablation_page.text(found, written))


@main.command()
@click.option("--opt", "opts", metavar="O,...", help="none, fold, fuse: any of them  [default: fuse]")
@click.option("--batch", "batches", metavar="N,...", help="Sizes of a symbolic batch  [default: 1]")
@click.option("--dtype", "dtypes", metavar="D,...", help="fp32, tf32, fp16, bf16: any of them  [default: fp16]")
@click.option("--target", metavar="T", help=f"What times are predicted for without a GPU  [default: {DEFAULT_TARGET}]")
@click.option("--repeats", type=click.IntRange(1), metavar="N", help="Runs that are timed.")
@click.option("--per-kernel", is_flag=True, help="A row for every launch.")
@device_option("auto")
@options("model", "dims", "policy", "seed", "json")
def bench(model: str, opts: str | None, batches: str | None, dtypes: str | None, as_json: bool, **given: Any) -> None:
    """Time a network on a device, at several levels of optimisation side by side."""
    from .analysis import bench as benchmark
    from .analysis import render

    sizes = [batch_size(text) for text in listed(batches) or ()] or None
    with progress_bar() as progress:
        asked = benchmark.Request(model, listed(opts), sizes, listed(dtypes), **given)
        report = benchmark.bench(asked, progress)
    print_report(as_json, report, render.benched)


@main.command()
@click.option("--prepare", is_flag=True, help="Only compile the candidates: no GPU is needed.")
@click.option(
    "--candidates", metavar="N", type=click.IntRange(2, 64), default=8, show_default=True, help="Tiles to try."
)
@click.option("--again", is_flag=True, help="Also measure what is known already.")
@click.option("--tables", metavar="DIR", help="The folder of the tables  [default: the user's cache]")
@device_option("auto")
@options("model", "target", "dtype", "batch", "opt", "disable", "enable", "only", "seed", "json")
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
    choices = choices_of(given)
    device, target = tuning.place_and_target(device, choices.target, prepare)
    folder = Path(tables) if tables is not None else None
    asked = tuning.Request(model, choices, device, target, candidates, seed, prepare, again, folder)
    with progress_bar() as progress:
        report = tuning.tune(asked, progress)
    print_report(as_json, report, render.tuned)


@main.group(invoke_without_command=True)
@options("json")
@click.pass_context
def zoo(context: click.Context, as_json: bool) -> None:
    """List the networks of the zoo, or export one."""
    if context.invoked_subcommand is not None:
        return
    from .analysis import render
    from .frontends import zoo as networks

    print_report(as_json, {"networks": networks.describe()}, lambda report: render.listed_networks(report["networks"]))


@zoo.command()
@click.argument("name")
@click.option("-o", "--output", metavar="FILE.onnx", required=True, help="The file to write.")
@click.option("--batch", default="1", show_default=True, metavar="N", help="A size, or the name of a symbolic one.")
@click.option("--opset", type=int, default=17, show_default=True)
@options("seed", "json")
def export(name: str, output: str, batch: str, opset: int, seed: int, as_json: bool) -> None:
    """Write a network of the zoo as ONNX, with weights drawn from a seed."""
    from .frontends import zoo as networks
    from .frontends.export import export_onnx

    require_writable(output)
    network = networks.build(
        name, batch=batch if batch.isidentifier() else batch_size(batch, other="a name"), seed=seed
    )
    export_onnx(network.graph, output, opset)
    report = {"name": name, "file": output, "batch": batch, "seed": seed, "opset": opset, "params": network.params}
    print_report(as_json, report, lambda found: found["file"])


@main.command()
@options("json")
def doctor(as_json: bool) -> None:
    """Say what this machine can do: GPUs, versions, the kernel cache."""
    from .analysis import machine, render

    print_report(as_json, machine.examine(), render.machine)
