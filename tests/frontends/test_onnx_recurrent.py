"""Recurrent layers, written out, against ONNX Runtime; those whose batch comes first against the steps in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_support import floats, model_of, one

from convc import errors
from convc.frontends.onnx import import_onnx

LENGTH, BATCH, INPUT, HIDDEN = 4, 2, 3, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
X = floats(LENGTH, BATCH, INPUT)


def weights(op: str, directions: int = 1, starts: bool = False, peepholes: bool = False) -> list[np.ndarray | None]:
    """W, R, B, no lengths, and where they are wanted the first states and the peepholes."""
    rows, state = GATES[op] * HIDDEN, (directions, BATCH, HIDDEN)
    made: list[np.ndarray | None] = [
        floats(directions, rows, INPUT), floats(directions, rows, HIDDEN), floats(directions, 2 * rows), None,
    ]  # fmt: skip
    made += [floats(*state) if starts else None] * (2 if op == "LSTM" else 1)
    return [*made, floats(directions, 3 * HIDDEN)] if peepholes else made


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("starts", [False, True])
def test_layers_are_written_out(op: str, direction: str, starts: bool) -> None:
    both = 1 + (direction == "bidirectional")
    form = {"hidden_size": HIDDEN, "direction": direction}
    one(op, X, constants=weights(op, both, starts), outputs=3 if op == "LSTM" else 2, opset=14, **form)


FORMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("GRU", {}, {"linear_before_reset": 1}),
    ("GRU", {}, {"activations": ["Relu", "Softsign"]}),
    ("LSTM", {"peepholes": True}, {}),
    ("LSTM", {"peepholes": True, "starts": True}, {"activations": ["Sigmoid", "Relu", "Softsign"]}),
    ("RNN", {}, {"activations": ["Relu"]}),
]


@pytest.mark.parametrize(("op", "extra", "form"), FORMS)
def test_forms_of_layers(op: str, extra: dict[str, Any], form: dict[str, Any]) -> None:
    one(op, X, constants=weights(op, **extra), outputs=2, opset=14, hidden_size=HIDDEN, **form)


def test_no_biases_and_an_open_batch() -> None:
    w, r, *_ = weights("GRU")
    for form in ({}, {"linear_before_reset": 1}):
        one("GRU", X, constants=[w, r], outputs=2, opset=14, shapes=[[LENGTH, "N", INPUT]], hidden_size=HIDDEN, **form)


def test_lengths_that_are_all_of_the_input() -> None:
    parts = weights("LSTM")
    parts[3] = np.full(BATCH, LENGTH, np.int32)
    one("LSTM", X, constants=parts, outputs=3, opset=14, hidden_size=HIDDEN)


def test_the_batch_in_front() -> None:
    """ONNX Runtime refuses this form: the same arrays with their axes exchanged are what is expected."""
    w, r, *_ = weights("RNN")
    assert w is not None and r is not None
    state, steps = np.zeros((BATCH, HIDDEN), np.float32), []
    for x in X:
        state = np.tanh(x @ w[0].T + state @ r[0].T)
        steps.append(state)
    expected = [np.stack(steps, 1)[:, :, None], state[:, None]]
    feed = np.ascontiguousarray(X.transpose(1, 0, 2))
    one("RNN", feed, constants=[w, r], outputs=2, opset=14, expected=expected, hidden_size=HIDDEN, layout=1)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"clip": 2.0}, "with clip=2.0"),
    ({"input_forget": 1}, "with input_forget=1"),
    ({"activations": ["Sigmoid", "Tanh", "Elu"]}, "with activations=Elu"),
    ({"lengths": [3, 4]}, r"with sequence_lens=\[3, 4\]"),
]


@pytest.mark.parametrize(("form", "message"), REFUSED)
def test_forms_that_are_refused(form: dict[str, Any], message: str) -> None:
    parts = weights("LSTM")
    lengths = form.get("lengths")
    form = {name: value for name, value in form.items() if name != "lengths"}
    parts[3] = None if lengths is None else np.array(lengths, np.int32)
    known = {f"c{i}": part for i, part in enumerate(parts) if part is not None}
    names = ["x", *("" if part is None else f"c{i}" for i, part in enumerate(parts))]
    layer = helper.make_node("LSTM", names, ["y"], name="rnn", hidden_size=HIDDEN, **form)
    with pytest.raises(errors.UnsupportedModelError, match=rf"LSTM \(node 'rnn'\): {message}"):
        import_onnx(model_of([layer], {"x": X}, known))
