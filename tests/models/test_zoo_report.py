"""What `make zoo` finds: each network is listed, summed up, exported and verified; and its page is of this zoo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import zoo_report
from convc.cli import main
from convc.frontends import zoo

QUICK = ("perceptron", "lenet5", "convnetjs_cifar10", "resnet20")


@pytest.fixture(scope="module")
def listed() -> dict[str, zoo_report.Row]:
    return {row["name"]: row for row in zoo.describe()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in zoo.names()])
def test_a_network_holds_in_every_way(name: str, listed: dict[str, zoo_report.Row]) -> None:
    found = zoo_report.row(listed[name])
    assert zoo_report.holds(found), found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "lenet5" else pytest.mark.slow) for n in zoo.names()]
)
def test_commands(name: str, tmp_path: Path) -> None:
    """As a user types them; the exported file gives what the network of the zoo gives."""

    def run(*arguments: str) -> dict[str, zoo_report.Row]:
        result = CliRunner().invoke(main, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    file = str(tmp_path / "network.onnx")
    assert name in [network["name"] for network in run("zoo")["networks"]]
    run("zoo", "export", name, "-o", file)
    of_zoo, of_file = (run("summary", model)["total"] for model in (f"zoo:{name}", file))
    assert (of_zoo["params"], of_zoo["macs"]) == (of_file["params"], of_file["macs"])
    of_zoo, of_file = (run("verify", model, "--device", "numpy", "--dtype", "fp32") for model in (f"zoo:{name}", file))
    assert of_zoo["ok"] and of_file["ok"]


def test_the_page_is_of_this_zoo(listed: dict[str, zoo_report.Row]) -> None:
    """Names, parameters and multiply-adds are those of the list now, and every error is within its bound."""
    lines = zoo_report.PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == zoo.names()
    for name, shape, params, macs, numpy, _, interpreter in rows:
        assert shape == "x".join(map(str, listed[name]["input_shape"][1:]))
        assert (params, macs) == (f"{listed[name]['params']:,}", f"{listed[name]['macs'] / 1e6:,.1f}")
        for pair in (numpy, interpreter):
            if pair == zoo_report.NOT_RUN:
                continue
            error, bound = map(float, pair.partition(" (")[0].split(", "))
            assert error <= bound


def test_the_page_says_how_its_runs_were_made_smaller() -> None:
    assert zoo_report.PAGE.read_text(encoding="utf-8").startswith(zoo_report.TITLE)
    for name, filters in zoo_report.FILTERS.items():
        assert name in zoo_report.TITLE and f" {filters} " in zoo_report.TITLE
        assert zoo_report.reduced(name, 10**12).params < zoo.build(name, weights="none").params / 8
