"""`convc summary` on the command line."""

from __future__ import annotations

from pathlib import Path

from cli_support import Run


def test_json_has_the_keys_of_the_contract(run: Run) -> None:
    found = run("summary", "zoo:vgg16", "--json").json
    keys = {"name", "op", "output_shape", "params", "macs", "activation_bytes", "receptive_field", "fits"}
    assert all(keys <= layer.keys() for layer in found["layers"])
    # What the lectures' rows add up to, the input first: 15.24 million values, 61.0 MB. The slides print 24M and 93 MB.
    stages = 224**2 * (3 + 2 * 64) + 112**2 * (64 + 2 * 128) + 56**2 * (128 + 3 * 256) + 28**2 * (256 + 3 * 512)
    values = stages + 14**2 * (512 + 3 * 512) + 7**2 * 512 + 2 * 4096 + 1000 + 1000  # the last are the softmax
    assert round(values / 1e6, 2) == 15.24
    assert found["total"] == {"params": 138_357_544, "macs": 15_470_264_320, "activation_bytes": 4 * values}
    assert found["total"]["params"] == sum(layer["params"] for layer in found["layers"])


def test_text_joins_what_works_in_place(run: Run) -> None:
    lines = run("summary", "zoo:resnet20").out.splitlines()
    stem = next(line for line in lines if "stem.conv" in line).split()
    assert stem == ["stem.conv", "Conv", "+", "BN", "+", "Relu", "1x16x32x32", "464", "442,368", "65.5", "kB", "3", "1"]
    assert lines[-1] == "total: 269.7 k parameters, 40.6 M multiply-adds, activations 1.2 MB"
    assert any(line.endswith("leaves padding") for line in lines)


def test_text_says_what_is_unread(run: Run) -> None:
    lines = run("summary", "zoo:resnet18").out.splitlines()
    shortcut = next(line for line in lines if "stage2.block1.shortcut" in line)
    assert shortcut.endswith("leaves 1 row, 1 column")


def test_batch(run: Run, relu: Path) -> None:
    assert [
        run("summary", relu, "--json", *batch).json["layers"][0]["output_shape"] for batch in ([], ["--batch", "5"])
    ] == [
        [1, 3],
        [5, 3],
    ]


def test_compiled_network(run: Run, artifact: Path) -> None:
    found, model = (run("summary", file, "--json").json for file in (artifact, "zoo:lenet5"))
    assert found["total"]["macs"] == model["total"]["macs"] and found["total"]["params"] == model["total"]["params"]
    refused = run("summary", artifact, "--batch", "2")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
