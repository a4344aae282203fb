"""Networks of the zoo beside the same ones as PyTorch and TensorFlow export them: the layer tables agree.

Exporters fold batch normalisations into convolutions, so parameters differ; multiply-adds and receptive fields do not.
"""

from __future__ import annotations

import pytest
from corpus import filled, needs_corpus

import convc
from convc.analysis.summary import summarise
from convc.frontends import zoo

EXPORTS = {
    "tv_inception_v3.ts17": "inception_v3",
    "timm_seresnet50.ts17": "se_resnet50",
    "tv_mobilenet_v3_small.ts17": "mobilenet_v3_small",
    "tf_nasnetmobile.tfnchw11": "nasnet_mobile",
}


@needs_corpus
@pytest.mark.parametrize("export", EXPORTS)
def test_multiply_adds_and_receptive_fields(export):
    found = summarise(convc.import_onnx(filled(export)))
    expected = summarise(zoo.build(EXPORTS[export], weights="none").graph)
    assert found.macs == expected.macs
    assert found.layers[-1].receptive_field == expected.layers[-1].receptive_field
    convolutions = [[layer.output_shape for layer in table.layers if layer.op == "Conv"] for table in (found, expected)]
    assert sorted(convolutions[0]) == sorted(convolutions[1])
