"""Any network of lcnas as a PyTorch module, with the same weights: the peer of the training benchmarks.

It reads the primitive layers, as the Flax builder does, and uses what a PyTorch user would: nn.Conv2d,
nn.BatchNorm2d, nn.Hardswish and their like, on channels_last tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from lcnas import layers, onnx_export
from lcnas.arch import Arch, walk

ACTS: dict[str, Any] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
    "hard_sigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def _conv(layer: layers.Conv, channels: int) -> list[nn.Module]:
    top, bottom, left, right = layer.padding
    if layer.affine or (top, left) != (bottom, right):
        raise NotImplementedError("the peer has neither affines nor one-sided padding")
    conv = nn.Conv2d(
        channels,
        layer.width,
        layer.kernel,
        layer.stride,
        (top, left),
        groups=layer.groups,
        bias=layer.bias,
    )
    modules: list[nn.Module] = [conv]
    if layer.norm:
        modules.append(nn.BatchNorm2d(layer.width, eps=onnx_export.EPSILON, momentum=0.1))
    return modules


def _named_weights(inner: Any, path: str) -> dict[str, Any]:
    """Return the weights of a module by name; {} for one of PyTorch's own that has none."""
    weights: dict[str, Any] = inner.named_weights(path) if hasattr(inner, "named_weights") else {}
    return weights


class Conv(nn.Sequential):
    """Convolution, norm, activation."""

    def __init__(self, layer: layers.Conv, shape: layers.Shape) -> None:
        act = [] if layer.act == "identity" else [ACTS[layer.act]()]
        super().__init__(*_conv(layer, shape[2]), *act)

    def named_weights(self, path: str) -> dict[str, Any]:
        conv = self[0]
        weights: dict[str, Any] = {f"{path}/kernel": conv.weight}
        if conv.bias is not None:
            weights[f"{path}/bias"] = conv.bias
        if len(self) > 1 and isinstance(self[1], nn.BatchNorm2d):
            norm = self[1]
            names = ("scale", "shift", "mean", "var")
            values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            weights |= {f"{path}/{n}": v for n, v in zip(names, values, strict=True)}
        return weights


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, layer: layers.SqueezeExcite, shape: layers.Shape) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(shape[2], layer.hidden, 1)
        self.expand = nn.Conv2d(layer.hidden, shape[2], 1)
        self.act, self.gate = ACTS[layer.act](), ACTS[layer.gate]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.reduce(v))))

    def named_weights(self, path: str) -> dict[str, Any]:
        weights: dict[str, Any] = {}
        for name, conv in (("reduce", self.reduce), ("expand", self.expand)):
            weights |= {f"{path}/{name}/kernel": conv.weight, f"{path}/{name}/bias": conv.bias}
        return weights


class Linear(nn.Sequential):
    """A fully connected layer."""

    def __init__(self, layer: layers.Linear, shape: layers.Shape) -> None:
        width = layer.out_shape(shape)[0]
        act = [] if layer.act == "identity" else [ACTS[layer.act]()]
        super().__init__(nn.Linear(shape[0], width), *act)

    def named_weights(self, path: str) -> dict[str, Any]:
        return {f"{path}/kernel": self[0].weight, f"{path}/bias": self[0].bias}


class Chain(nn.Sequential):
    """Layers one behind the other."""

    def __init__(self, layer: layers.Chain, shape: layers.Shape) -> None:
        modules = []
        for inner in layer.layers:
            modules.append(module(inner, shape))
            shape = inner.out_shape(shape)
        super().__init__(*modules)

    def named_weights(self, path: str) -> dict[str, Any]:
        weights: dict[str, Any] = {}
        for i, inner in enumerate(self):
            weights |= _named_weights(inner, f"{path}/{i}")
        return weights


class Add(nn.Module):
    """Branches, summed."""

    def __init__(self, layer: layers.Add, shape: layers.Shape) -> None:
        super().__init__()
        self.branches = nn.ModuleList([module(b, shape) for b in layer.branches])
        self.act = ACTS[layer.act]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = (branch(x) for branch in self.branches)
        return self.act(sum(rest, first))

    def named_weights(self, path: str) -> dict[str, Any]:
        weights: dict[str, Any] = {}
        for i, inner in enumerate(self.branches):
            weights |= _named_weights(inner, f"{path}/{i}")
        return weights


_MADE: dict[type[layers.Layer], Any] = {
    layers.Conv: Conv,
    layers.SqueezeExcite: SqueezeExcite,
    layers.Linear: Linear,
    layers.Chain: Chain,
    layers.Add: Add,
    layers.GlobalPool: lambda _, __: nn.AdaptiveAvgPool2d(1),
    layers.Flatten: lambda _, __: nn.Flatten(),
    layers.Dropout: lambda layer, _: nn.Dropout(layer.rate),
    layers.Act: lambda layer, _: ACTS[layer.act](),
    layers.Identity: lambda _, __: nn.Identity(),
}


def module(layer: layers.Layer, shape: layers.Shape) -> nn.Module:
    """Return the module of a layer for an input of ``shape`` (height, width, channels)."""
    if type(layer) not in _MADE:
        raise NotImplementedError(f"the peer has no {layer.kind}")
    built: nn.Module = _MADE[type(layer)](layer, shape)
    return built


class Network(nn.Sequential):
    """A whole network; its input is (batch, 3, height, width)."""

    def __init__(self, arch: Arch, classes: int) -> None:
        super().__init__()
        self.names = onnx_export.block_names(arch)
        for name, placed in zip(self.names, walk(arch, None, classes), strict=True):
            self.add_module(name, module(placed.layer, placed.in_shape))

    def named_weights(self) -> dict[str, torch.Tensor]:
        """Return every weight under lcnas's name, in PyTorch's shape."""
        weights: dict[str, torch.Tensor] = {}
        for name in self.names:
            weights |= _named_weights(getattr(self, name), name)
        return weights

    def load(self, weights: Mapping[str, Any]) -> None:
        """Take lcnas's weights (HWIO kernels, (in, out) of linear layers)."""
        mine = self.named_weights()
        if set(mine) != set(weights):
            raise ValueError(f"other weights: {set(mine) ^ set(weights)}")
        with torch.no_grad():
            for name, value in weights.items():
                array = np.array(value, np.float32)
                order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
                array = array if order is None else np.ascontiguousarray(array.transpose(order))
                mine[name].copy_(torch.from_numpy(array))

    def export(self) -> dict[str, Any]:
        """Return the weights as lcnas has them."""
        arrays = {}
        for name, tensor in self.named_weights().items():
            array = tensor.detach().numpy()
            order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
            arrays[name] = np.array(array if order is None else array.transpose(order))
        return arrays


def network(arch: Arch, classes: int) -> Network:
    """Return a network in channels_last, in training mode."""
    net: Any = Network(arch, classes)  # PyTorch's own types of `to` know no memory format alone
    model: Network = net.to(memory_format=torch.channels_last).train()
    return model
