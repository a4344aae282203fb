"""Golden files, and what all tests share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

GOLDENS = Path(__file__).with_name("golden")

settings.register_profile(
    "shared-process",
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking networks takes minutes: add Phase.shrink to study a failure
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files that differ")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with a file below tests/golden, or rewrites the file."""

    def check(name: str, text: str) -> None:
        path = GOLDENS / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        difference = difflib.unified_diff(before.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm="")
        assert before == text, "\n".join(["pytest --update-golden accepts this:", *difference])

    return check


@pytest.fixture(scope="session", autouse=True)
def _no_tables_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What somebody measured on this machine must not change plans."""
    import convc.targets.tuned as tuned

    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned, "user_directory", lambda: folder)
        yield


@pytest.fixture(scope="session")
def interpreters() -> Iterator[None]:
    """The children that run kernels compute with one thread each: as many tests run as there are cores."""
    pytest.importorskip("triton", reason="the emitted kernels run in Triton's interpreter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            patch.setenv(name, "1")
        yield
