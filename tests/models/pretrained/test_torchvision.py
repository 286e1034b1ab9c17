"""torchvision's names: every tensor goes where it belongs, and the network computes what torchvision's does.

The tables of names and the NumPy forward passes are written from torchvision's layout, apart from
lcnas. (They were compared with torchvision 0.28 itself once: all networks here agree within 3e-5.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import save_file

from lcnas import blocks, cost, onnx_export, zoo
from lcnas.arch import Arch
from lcnas.blocks import Classifier, ConvNormAct, DenseHead, InvertedResidual, MBConv, Pool
from lcnas.errors import PretrainedError
from lcnas.models import pretrained
from lcnas.models.pretrained import _prefixes, _read
from lcnas.zoo.mobilenet_v2 import mobilenet_v2

from . import torchvision_names as theirs
from .test_names import CLASSES, numbered, trained

TABLES = {
    "mobilenet_v2_1.0x": lambda n: theirs.mobilenet_v2(1.0, n),
    "mobilenet_v3_small_1.0x": lambda n: theirs.mobilenet_v3(theirs.V3_SMALL, 1024, n),
    "mobilenet_v3_large_1.0x": lambda n: theirs.mobilenet_v3(theirs.V3_LARGE, 1280, n),
    "efficientnet_b0": theirs.efficientnet_b0,
    "shufflenet_v2_0.5x": lambda n: theirs.shufflenet_v2("0.5", n),
    "shufflenet_v2_1.0x": lambda n: theirs.shufflenet_v2("1.0", n),
    "shufflenet_v2_1.5x": lambda n: theirs.shufflenet_v2("1.5", n),
    "shufflenet_v2_2.0x": lambda n: theirs.shufflenet_v2("2.0", n),
    "resnet18": lambda n: theirs.resnet(classes=n),
}
# num_params, as torchvision's documentation prints them.
COUNTS = {
    "mobilenet_v2_1.0x": 3_504_872,
    "mobilenet_v3_small_1.0x": 2_542_856,
    "mobilenet_v3_large_1.0x": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "shufflenet_v2_0.5x": 1_366_792,
    "shufflenet_v2_1.0x": 2_278_604,
    "shufflenet_v2_1.5x": 3_503_624,
    "shufflenet_v2_2.0x": 7_393_996,
    "resnet18": 11_689_512,
}


def saved(arrays, folder):
    save_file(arrays, folder / "w.safetensors")
    return folder / "w.safetensors"


def execution(rows):
    """Return torchvision's names in the order of execution, in which a shortcut comes first here."""
    names = [name for name, _ in rows if not name.endswith("batches_tracked")]

    def place(name):
        at = names.index(name)
        block, is_shortcut, _ = name.partition(".downsample")
        return names.index(f"{block}.conv1.weight") - 0.5 if is_shortcut else at

    return sorted(names, key=place)


@pytest.mark.parametrize("name", TABLES)
def test_every_tensor_goes_where_it_belongs(name, tmp_path):
    assert trained(TABLES[name](1000)) == COUNTS[name]
    rows = TABLES[name](CLASSES)
    arrays = numbered(rows)
    loaded = pretrained.read(saved(arrays, tmp_path))
    assert (loaded.arch, loaded.classes) == (zoo.load(name), CLASSES)
    assert cost.params(loaded.arch, CLASSES) == trained(rows)
    values = [np.unique(array).tolist() for array in loaded.weights.values()]
    shift = 1e-3 - 1e-5 if "v3" in name else 0.0  # the epsilon of torchvision's MobileNetV3
    reference = [
        [np.float32(arrays[row].flat[0] + shift * row.endswith("running_var"))]
        for row in execution(rows)
    ]
    assert values == reference
    assert list(loaded.weights) == list(onnx_export.names(loaded.arch, CLASSES))


@pytest.mark.parametrize(("norm", "name", "params"), [
    (False, "vgg16", 138_357_544), (True, "vgg16_bn", 138_365_992),
])  # fmt: skip
def test_vgg16_by_names_and_shapes(norm, name, params):
    """Of the 138 million values only one each is in memory."""
    rows = theirs.vgg(norm=norm)
    assert trained(rows) == params
    arrays = {row: np.broadcast_to(np.float32(0), shape) for row, shape in rows}
    (named,) = _prefixes.networks_in(arrays)
    arch = _read._known(named.arrays, named.scheme, 1000, name)
    assert arch.name == name
    assert arch.blocks[0] == ConvNormAct(64, 3, norm=norm)
    bias_too = sum(block.width for block in arch.blocks if isinstance(block, ConvNormAct))
    assert cost.params(arch) == params - bias_too * norm


# -- what torchvision computes, in NumPy -----------------------------------------------------------


class Torch:
    """torchvision's forward pass over a state dict; maps are (n, channels, height, width)."""

    def __init__(self, state, eps=1e-5):
        self.state = state
        self.eps = eps

    def conv(self, x, name, stride=1):
        kernel = self.state[f"{name}.weight"].astype(float)
        groups = x.shape[1] // kernel.shape[1]
        pad = kernel.shape[2] // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = sliding_window_view(x, kernel.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        cut = zip(np.split(windows, groups, 1), np.split(kernel, groups), strict=True)
        outputs = np.concatenate([np.einsum("ncxyij,ocij->noxy", w, k) for w, k in cut], 1)
        return outputs + self.state.get(f"{name}.bias", np.zeros(len(kernel)))[:, None, None]

    def norm(self, x, name):
        row = [
            self.state[f"{name}.{last}"].astype(float)[:, None, None]
            for last in ("weight", "bias", "running_mean", "running_var")
        ]
        return (x - row[2]) / np.sqrt(row[3] + self.eps) * row[0] + row[1]

    def both(self, x, conv, norm, stride=1):
        return self.norm(self.conv(x, conv, stride), norm)

    def pair(self, x, name, stride=1):
        return self.both(x, f"{name}.0", f"{name}.1", stride)

    def squeeze(self, x, name, act, gate):
        inner = self.conv(x.mean((2, 3), keepdims=True), f"{name}.fc1")
        return x * gate(self.conv(act(inner), f"{name}.fc2"))

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T.astype(float) + self.state[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2


def silu(x):
    return x * sigmoid(x)


def hard_sigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


def hard_swish(x):
    return x * hard_sigmoid(x)


def max_pool(x, kernel, stride, pad):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    return sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride].max((4, 5))


def shuffle(x):
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).swapaxes(1, 2).reshape(n, c, h, w)


def drawn(rows, seed=0):
    """Return random tensors; variances so small that the epsilon of batch norm counts."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in rows:
        value = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        value = rng.uniform(1e-4, 1e-2, shape) if name.endswith("running_var") else value
        arrays[name] = np.asarray(value, np.float32)
    return arrays


def computed(arrays, arch, folder, x):
    """Return the outputs of our network, by the file that is exported."""
    loaded = pretrained.read(saved(arrays, folder), arch)
    model = onnx_export.export(arch, weights=loaded.weights, classes=CLASSES, batch=len(x))
    session = onnxruntime.InferenceSession(
        onnx_export.to_bytes(model), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def check(rows, arch, folder, forward, **settings):
    arrays = drawn(rows)
    x = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    reference = forward(Torch(arrays, **settings), x.astype(float))
    ours = computed(arrays, arch, folder, x)
    assert reference.std() > 0
    np.testing.assert_allclose(ours, reference, atol=1e-4 * np.abs(reference).max())


def test_mobilenet_v2_computes_the_same(tmp_path):
    rows = theirs.Table()
    rows.pair("features.0", 3, 8, 3)
    rows.pair("features.1.conv.0", 1, 8, 3)
    rows.both("features.1.conv.1", "features.1.conv.2", 8, 8)
    rows.pair("features.2.conv.0", 8, 48)
    rows.pair("features.2.conv.1", 1, 48, 3)
    rows.both("features.2.conv.2", "features.2.conv.3", 48, 16)
    rows.pair("features.3", 16, 24)
    rows.linear("classifier.1", 24, CLASSES)
    body = [InvertedResidual(8, expansion=1, shortcut=True), InvertedResidual(16, stride=2)]
    stages: dict[str, Any] = {"stem": [ConvNormAct(8, 3, 2, "relu6")], "stage1": body}
    stages |= {"last": [ConvNormAct(24, 1, 1, "relu6")], "head": [DenseHead(dropout=0.2)]}

    def forward(net, x):
        x = relu6(net.pair(x, "features.0", 2))
        inner = relu6(net.pair(x, "features.1.conv.0"))
        x = x + net.both(inner, "features.1.conv.1", "features.1.conv.2")
        x = relu6(net.pair(x, "features.2.conv.0"))
        x = relu6(net.pair(x, "features.2.conv.1", 2))
        x = net.both(x, "features.2.conv.2", "features.2.conv.3")
        x = relu6(net.pair(x, "features.3"))
        return net.linear(x.mean((2, 3)), "classifier.1")

    check(rows.rows, Arch.of(stages, 16), tmp_path, forward)


def test_mobilenet_v3_computes_the_same_with_its_own_epsilon(tmp_path):
    rows = theirs.Table()
    rows.pair("features.0", 3, 16, 3)
    rows.row("features.1.block", 16, 16, 16, 3, 8)
    rows.row("features.2.block", 16, 40, 24, 5, 0)
    rows.pair("features.3", 24, 32)
    rows.linear("classifier.0", 32, 20)
    rows.linear("classifier.3", 20, CLASSES)
    body = [
        InvertedResidual(16, 3, 1, "relu", expanded=16, se=True, shortcut=True),
        InvertedResidual(24, 5, 2, "hard_swish", expanded=40),
    ]
    stages: dict[str, Any] = {"stem": [ConvNormAct(16, 3, 2, "hard_swish")], "stage1": body}
    stages |= {
        "last": [ConvNormAct(32, 1, 1, "hard_swish")],
        "head": [Classifier(20, "hard_swish", bias=True)],
    }

    def forward(net, x):
        x = hard_swish(net.pair(x, "features.0", 2))
        inner = relu(net.pair(x, "features.1.block.0"))
        inner = net.squeeze(inner, "features.1.block.1", relu, hard_sigmoid)
        x = x + net.pair(inner, "features.1.block.2")
        x = hard_swish(net.pair(x, "features.2.block.0"))
        x = hard_swish(net.pair(x, "features.2.block.1", 2))
        x = net.pair(x, "features.2.block.2")
        x = hard_swish(net.pair(x, "features.3"))
        x = hard_swish(net.linear(x.mean((2, 3)), "classifier.0"))
        return net.linear(x, "classifier.3")

    check(rows.rows, Arch.of(stages, 16), tmp_path, forward, eps=1e-3)


def test_efficientnet_computes_the_same(tmp_path):
    rows = theirs.Table()
    rows.pair("features.0", 3, 8, 3)
    rows.row("features.1.0.block", 8, 8, 8, 3, 2)
    rows.row("features.2.0.block", 8, 48, 12, 5, 2)
    rows.pair("features.3", 12, 24)
    rows.linear("classifier.1", 24, CLASSES)
    stages: dict[str, Any] = {
        "stem": [ConvNormAct(8, 3, 2, "silu")],
        "stage1": [MBConv(8, expansion=1)],
    }
    stages |= {"stage2": [MBConv(12, 5, 2)], "last": [ConvNormAct(24, 1, 1, "silu")]}
    stages |= {"head": [DenseHead(dropout=0.2)]}

    def forward(net, x):
        x = silu(net.pair(x, "features.0", 2))
        x = silu(net.pair(x, "features.1.0.block.0"))
        x = net.squeeze(x, "features.1.0.block.1", silu, sigmoid)
        x = net.pair(x, "features.1.0.block.2")
        x = silu(net.pair(x, "features.2.0.block.0"))
        x = silu(net.pair(x, "features.2.0.block.1", 2))
        x = net.squeeze(x, "features.2.0.block.2", silu, sigmoid)
        x = net.pair(x, "features.2.0.block.3")
        x = silu(net.pair(x, "features.3"))
        return net.linear(x.mean((2, 3)), "classifier.1")

    check(rows.rows, Arch.of(stages, 16), tmp_path, forward)


def test_shufflenet_v2_computes_the_same(tmp_path):
    rows = theirs.Table()
    rows.pair("conv1", 3, 8, 3)
    for name, inputs in (("stage2.0", 8), ("stage2.1", 6)):
        if name == "stage2.0":
            rows.both(f"{name}.branch1.0", f"{name}.branch1.1", 1, 8, 3)
            rows.both(f"{name}.branch1.2", f"{name}.branch1.3", 8, 6)
        rows.both(f"{name}.branch2.0", f"{name}.branch2.1", inputs, 6)
        rows.both(f"{name}.branch2.3", f"{name}.branch2.4", 1, 6, 3)
        rows.both(f"{name}.branch2.5", f"{name}.branch2.6", 6, 6)
    rows.pair("conv5", 12, 20)
    rows.linear("fc", 20, CLASSES)
    units = [blocks.ShuffleV2Unit(12, stride=2), blocks.ShuffleV2Unit(12)]
    head = Classifier(20, "relu", norm=True, dropout=0.0, pool_after=True)
    stages: dict[str, Any] = {
        "stem": [ConvNormAct(8, 3, 2), Pool(3)],
        "stage1": units,
        "head": [head],
    }

    def main(net, x, name, stride):
        x = relu(net.both(x, f"{name}.branch2.0", f"{name}.branch2.1"))
        x = net.both(x, f"{name}.branch2.3", f"{name}.branch2.4", stride)
        return relu(net.both(x, f"{name}.branch2.5", f"{name}.branch2.6"))

    def forward(net, x):
        x = max_pool(relu(net.pair(x, "conv1", 2)), 3, 2, 1)
        side = net.both(x, "stage2.0.branch1.0", "stage2.0.branch1.1", 2)
        side = relu(net.both(side, "stage2.0.branch1.2", "stage2.0.branch1.3"))
        x = shuffle(np.concatenate([side, main(net, x, "stage2.0", 2)], 1))
        left, right = np.split(x, 2, 1)
        x = shuffle(np.concatenate([left, main(net, right, "stage2.1", 1)], 1))
        return net.linear(relu(net.pair(x, "conv5")).mean((2, 3)), "fc")

    check(rows.rows, Arch.of(stages, 16), tmp_path, forward)


def test_resnet_computes_the_same(tmp_path):
    rows = theirs.resnet((1, 2), CLASSES, 8)
    basic = blocks.BasicBlock
    stages: dict[str, Any] = {"stem": [ConvNormAct(8, 7, 2), Pool(3)], "stage1": [basic(8)]}
    stages |= {"stage2": [basic(16, 2), basic(16)], "head": [DenseHead()]}

    def block(net, x, name, stride=1):
        side = net.pair(x, f"{name}.downsample", stride) if stride > 1 else x
        x = relu(net.both(x, f"{name}.conv1", f"{name}.bn1", stride))
        return relu(side + net.both(x, f"{name}.conv2", f"{name}.bn2"))

    def forward(net, x):
        x = max_pool(relu(net.both(x, "conv1", "bn1", 2)), 3, 2, 1)
        x = block(net, block(net, x, "layer1.0"), "layer2.0", 2)
        return net.linear(block(net, x, "layer2.1").mean((2, 3)), "fc")

    check(rows, Arch.of(stages, 16), tmp_path, forward)


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_computes_the_same(norm, tmp_path):
    """Its rows are flattened channels first, and a bias in front of batch norm goes into the mean."""
    rows = theirs.vgg((8, 0, 16, 16, 0), norm, CLASSES, side=4, hidden=10)
    pool = Pool(2, 2, padding=(0, 0, 0, 0))
    one, two = ConvNormAct(8, 3, norm=norm), ConvNormAct(16, 3, norm=norm)
    head = DenseHead((10, 10), dropout=0.5, pool=False)
    stages: dict[str, Any] = {"stage1": [one, pool], "stage2": [two, two, pool], "head": [head]}

    def layer(net, x, at):
        y = net.conv(x, f"features.{at}")
        return relu(net.norm(y, f"features.{at + 1}") if norm else y)

    def forward(net, x):
        at = (0, 4, 7) if norm else (0, 3, 5)
        x = max_pool(layer(net, x, at[0]), 2, 2, 0)
        x = max_pool(layer(net, layer(net, x, at[1]), at[2]), 2, 2, 0)
        x = relu(net.linear(x.reshape(len(x), -1), "classifier.0"))
        return net.linear(relu(net.linear(x, "classifier.3")), "classifier.6")

    check(rows, Arch.of(stages, 16), tmp_path, forward)


def test_torchvisions_own_file_gives_the_reference_logits(shared_data):
    """MobileNetV2 1.0x, ImageNet; the logits were computed in float64 from the same file."""
    folder = shared_data / "weights" / "mobilenet_v2_1.0x"
    reference = shared_data / "weights" / "reference_logits.npz"
    if not folder.is_dir() or not reference.is_file():
        pytest.skip(f"no weights in {folder}")
    with np.load(reference) as file:
        images, logits = file["images"], file["mobilenet_v2_1.0x"]
    (weights,) = folder.glob("*.pth")
    loaded = pretrained.read(weights)
    assert loaded.arch == zoo.load("mobilenet_v2_1.0x")
    x = (images / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    model = onnx_export.export(
        loaded.arch.at(160), weights=loaded.weights, batch=len(x), check=False
    )
    session = onnxruntime.InferenceSession(
        onnx_export.to_bytes(model), providers=["CPUExecutionProvider"]
    )
    nchw = x.transpose(0, 3, 1, 2).astype(np.float32)
    computed_logits = session.run(None, {session.get_inputs()[0].name: nchw})[0]
    np.testing.assert_allclose(computed_logits, logits, atol=1e-3)


def test_files_that_say_they_pad_as_tensorflow_are_refused(shared_data, tmp_path):
    """Names and shapes are torchvision's; only the metadata identify it."""
    rows = theirs.mobilenet_v2(0.5, CLASSES)
    arrays = numbered(rows)
    save_file(arrays, tmp_path / "a.safetensors")
    assert pretrained.read(tmp_path / "a.safetensors").arch == mobilenet_v2(0.5)
    save_file(arrays, tmp_path / "b.safetensors", {"padding": "TensorFlow SAME"})
    with pytest.raises(PretrainedError, match="its padding is 'TensorFlow SAME'"):
        pretrained.read(tmp_path / "b.safetensors")
    theirs_too = shared_data / "weights" / "mobilenet_v2_0.5x" / "model.safetensors"
    if theirs_too.is_file():
        with pytest.raises(PretrainedError, match="its padding is"):
            pretrained.read(theirs_too)


def test_another_network_of_the_family(tmp_path):
    rows = theirs.resnet((3, 4, 6, 3), CLASSES, 8)
    arrays = {name: np.ones(shape, np.float32) for name, shape in rows}
    with pytest.raises(
        PretrainedError, match=r"not among the known networks .* torchvision's ResNet.*arch="
    ):
        pretrained.read(saved(arrays, tmp_path))
    with pytest.raises(PretrainedError, match=r"has the names of torchvision's ResNet, vgg16 has"):
        pretrained.read(tmp_path / "w.safetensors", zoo.load("vgg16"))


def test_a_given_epsilon_goes_before_torchvisions(tmp_path):
    file = saved(numbered(TABLES["mobilenet_v3_small_1.0x"](CLASSES)), tmp_path)
    var = [pretrained.read(file, epsilon=e).weights["stem/var"][0] for e in (None, 1e-3, 1e-5)]
    np.testing.assert_allclose(var, [5 + 1e-3 - 1e-5] * 2 + [5], rtol=1e-7)
