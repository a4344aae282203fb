"""Compiling many kernels: worker processes side by side, the cache in front of them."""

from __future__ import annotations

import os
import queue
import subprocess
import tempfile
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass

from .. import errors
from ..workers import command, read_message, write_message
from .cache import KernelCache
from .packed import open_cache
from .worker import Compiled, Failed, Reply, Request

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """A request, and the user's name for what it is for, which errors quote."""

    request: Request
    label: str


class _Worker:
    """One compiling process, with its temporary files below ``scratch``."""

    def __init__(self, scratch: str) -> None:
        self.process = subprocess.Popen(
            command("convc.codegen.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TMPDIR": scratch},
            process_group=0,  # Ctrl-C is for the process that asks, which then ends this one
        )

    def ask(self, request: Request) -> Reply:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            write_message(self.process.stdin, request)
            reply = read_message(self.process.stdout, Reply)
        except (BrokenPipeError, OSError):
            reply = None
        return reply if reply is not None else Failed("the compiling process ended unexpectedly")

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was to be written has no reader any more
                    stream.close()
        self.process.wait()


def worker_count() -> int:
    """``$CONVC_JOBS``, or the processors that this process may use. Raises `UsageError` where it is no number."""
    given = os.environ.get("CONVC_JOBS", "")
    if given and not (given.isdecimal() and int(given)):
        raise errors.bad_jobs(given)
    return int(given) if given else len(os.sched_getaffinity(0))


def compile_kernels(
    jobs: Sequence[Job], cache: KernelCache | None = None, progress: Progress | None = None
) -> list[Compiled]:
    """Compiles every job, equal requests once, in parallel; ``progress`` gets (done, all).

    Raises:
        CompileError: the first kernel that cannot be compiled, with its label and what the compiler said; the first
            one that a pack of kernels does not hold.
    """
    cache = cache or open_cache()
    keys = [cache.key(job.request, cache.triton) for job in jobs]
    results = {key: found for key in dict.fromkeys(keys) if (found := cache.get(key)) is not None}
    missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in results}
    if missing and not cache.compiles:
        job = next(iter(missing.values()))
        raise errors.kernel_not_packed(job.label, job.request.name, job.request.capability, cache.directory)
    total = len(set(keys))
    if progress:
        progress(len(results), total)
    with closing(_compile_missing(missing)) as replies:  # whatever happens here, the processes end now
        for key, job, reply in replies:
            if isinstance(reply, Failed):
                source = cache.keep_failed(job.request)
                raise errors.kernel_failed(job.label, job.request.name, job.request.capability, reply.reason, source)
            cache.put(key, reply)
            results[key] = reply
            if progress:
                progress(len(results), total)
    return [results[key] for key in keys]


def _compile_missing(missing: dict[str, Job]) -> Generator[tuple[str, Job, Reply], None, None]:
    if not missing:
        return
    count = min(worker_count(), len(missing))
    workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    # The workers' temporary files are ours to remove: a worker that is killed cannot.
    scratch = tempfile.TemporaryDirectory(prefix="convc-", ignore_cleanup_errors=True)
    everyone = [_Worker(scratch.name) for _ in range(count)]
    for worker in everyone:
        workers.put(worker)

    def run(item: tuple[str, Job]) -> tuple[str, Job, Reply]:
        worker = workers.get()
        try:
            return *item, worker.ask(item[1].request)
        finally:
            workers.put(worker)

    pool = ThreadPoolExecutor(count)
    try:
        yield from pool.map(run, missing.items())
    except BaseException:
        for worker in everyone:
            worker.process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for worker in everyone:
            worker.close()
        scratch.cleanup()
