"""AlexNet in the DSL: builds it with seeded weights and prints what each layer makes of the image."""

from __future__ import annotations

from convc import nn


def alexnet() -> nn.Network:
    net = nn.Network("alexnet", seed=0)
    x = net.input(3, 227, 227)
    x = x.conv(96, 11, stride=4).relu().max_pool(3, stride=2).lrn(5)
    x = x.conv(256, 5, padding=2).relu().max_pool(3, stride=2).lrn(5)
    x = x.conv(384, 3, padding=1).relu()
    x = x.conv(384, 3, padding=1).relu()
    x = x.conv(256, 3, padding=1).relu().max_pool(3, stride=2)
    x = x.dense(4096).relu().dropout().dense(4096).relu().dropout()
    return net.output(x.dense(1000).softmax())


if __name__ == "__main__":
    network = alexnet()
    print(f"{'input':16} {list(network.input_shape)}")
    for layer in network.layers:
        print(f"{layer.name:16} {list(layer.shape)}")
    print(f"{network.params:,} parameters, {network.macs:,} multiply-accumulates")
