"""The page of an ablation in a headless browser: charts are drawn, nothing goes wrong, links lead to sources."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from cli_support import Run, save_model
from onnx import helper

import convc

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHARTS = ("bytes", "launches", "time", "roofline")
NASTY = "</title></text><script>document.title='owned'</script>&\x01\"'"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>\n')
REPORT = """<script>
const failures = [];
addEventListener("error", event => failures.push(event.message));
addEventListener("load", () => {
  const size = node => { const box = node.getBoundingClientRect(); return [box.width, box.height]; };
  const shown = id => { location.hash = id; return getComputedStyle(document.getElementById(id)).display; };
  const sections = [...document.querySelectorAll("section")];
  const report = {
    failures,
    title: document.title,
    svg: [...document.querySelectorAll("svg")].map(size),
    shapes: Object.fromEntries([...document.querySelectorAll(".charts figure")].map(figure =>
      [figure.id, [...figure.querySelectorAll("path, use")].filter(node => Math.max(...size(node)) > 0).length]
    )),
    links: [...document.querySelectorAll("a")].map(link => {
      const to = link.getAttribute("href") ?? link.getAttribute("xlink:href");
      return [to, to.startsWith("#") && document.getElementById(to.slice(1)) !== null];
    }),
    before: sections.map(section => getComputedStyle(section).display),
    after: sections.map(section => shown(section.id)),
    sources: sections.map(section => [...section.querySelectorAll("pre")].map(source => source.textContent)),
    wide: document.documentElement.scrollWidth - innerWidth,
  };
  const text = document.createElement("pre");
  text.id = "report";
  text.textContent = JSON.stringify(report);
  document.body.replaceChildren(text);
});
</script>
"""


def opened(page: Path, folder: Path, script: str = "") -> tuple[str, str]:
    """The document as a browser has it after loading, and what it logged on the console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no headless browser is installed: none of {', '.join(BROWSERS)} is on the path")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1440,900", f"--user-data-dir={folder}"]
    if script:
        copy = folder / "scripted.html"
        copy.write_text(POLICY.sub(lambda _: script, page.read_text("utf-8"), count=1), "utf-8")
        page = copy
    command = [browser, *options, "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def reported(page: Path, folder: Path) -> dict[str, Any]:
    """What a script in a copy of the page finds in it."""
    document, console = opened(page, folder, REPORT)
    assert console == ""
    found = re.search(r'<pre id="report">(.*?)</pre>', document, re.DOTALL)
    assert found is not None, document[:2000]
    return json.loads(unescape(found[1]))


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="charts are drawn with matplotlib")
    file = tmp_path_factory.mktemp("browser") / "a.html"
    assert run("ablate", "zoo:resnet20", "-o", file).status == 0
    return file


def test_charts_are_drawn_and_links_lead_to_sources(page: Path, tmp_path: Path) -> None:
    report = reported(page, tmp_path)
    assert report["failures"] == [] and report["wide"] <= 0
    assert len(report["svg"]) == len(CHARTS) + 1, "the charts and the graph"
    assert all(width > 300 and height > 200 for width, height in report["svg"])
    assert report["shapes"].keys() == {f"chart-{name}" for name in CHARTS}
    assert all(count > 10 for count in report["shapes"].values()), report["shapes"]
    assert report["links"] and all(leads for _, leads in report["links"]), report["links"]
    (program,) = convc.plan("zoo:resnet20").programs
    sources = [source for section in report["sources"] for source in section]
    assert all(any(f"def {kernel}(" in source for source in sources) for kernel in program.kernels)
    boxes = {target for target, _ in report["links"] if target.startswith("#box")}
    regions = {region.id for launch in program.launches for region in launch.regions}
    assert len(boxes) == len(report["sources"]) >= len(regions), "every fused region leads to its source"
    assert set(report["before"]) == {"none"} and set(report["after"]) == {"block"}, "a link opens its source"


def test_the_page_itself_logs_nothing(page: Path, tmp_path: Path) -> None:
    document, console = opened(page, tmp_path)
    assert console == "" and "<script" not in document


def test_names_of_layers_stay_text(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts are drawn with matplotlib")
    nodes = [helper.make_node("Relu", ["x"], ["a"], name=NASTY), helper.make_node("Softmax", ["a"], ["y"], name="$_^{")]
    model = save_model(tmp_path / "model.onnx", nodes, [4, 8])
    assert run("ablate", model, "-o", tmp_path / "a.html").status == 0
    report = reported(tmp_path / "a.html", tmp_path)
    assert report["failures"] == [] and "owned" not in report["title"]
