"""Shapes of the primitive layers against counted windows, their errors, and the order of visits."""

import itertools
from math import prod

import pytest

from lcnas.errors import ShapeError
from lcnas.layers import (
    Act,
    Add,
    BatchNorm,
    Chain,
    ChannelShuffle,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalPool,
    Identity,
    Linear,
    LocalResponseNorm,
    Pool,
    Reparam,
    Split,
    SqueezeExcite,
    is_open,
    same_padding,
    visit,
    with_classes,
)


def starts(size, kernel, stride, before, behind, ceil=False):
    """Where a sliding window starts, in coordinates of the unpadded side, found by sliding it."""
    positions, start = [], -before
    while start + kernel <= size + behind:
        positions.append(start)
        start += stride
    # Rounding up adds one window, if values are left over and it starts inside.
    left_over = positions[-1] + kernel < size + behind
    if ceil and left_over and start < size:
        positions.append(start)
    return positions


SIDES = [
    case
    for case in itertools.product(range(1, 9), (1, 2, 3, 5), (1, 2, 3, 4), (0, 1, 2), (0, 1, 2))
    if case[0] + case[3] + case[4] >= case[1]
]


def test_convolution_has_one_output_a_window_position():
    for size, kernel, stride, before, behind in SIDES:
        tall = Conv(7, (kernel, 1), (stride, 1), (before, behind, 0, 0))
        wide = Conv(7, (1, kernel), (1, stride), (0, 0, before, behind))
        count = len(starts(size, kernel, stride, before, behind))
        assert tall.out_shape((size, 4, 3)) == (count, 4, 7), (size, tall)
        assert wide.out_shape((4, size, 3)) == (4, count, 7), (size, wide)


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_has_one_output_a_window_position(ceil):
    for size, kernel, stride, before, behind in SIDES:
        if max(before, behind) >= kernel:
            continue
        pool = Pool("max", (kernel, 1), (stride, 2), (before, behind, 0, 0), ceil)
        positions = starts(size, kernel, stride, before, behind, ceil)
        assert pool.out_shape((size, 5, 3)) == (len(positions), 3, 3), (size, pool)
        # Every window sees at least one value: a mean of none would be NaN.
        assert all(start < size and start + kernel > 0 for start in positions)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_same_padding_keeps_the_size(kernel, size):
    conv = Conv(2, (kernel, kernel), padding=same_padding((kernel, kernel)))
    assert conv.out_shape((size, size, 3)) == (size, size, 2)


def test_the_two_directions_do_not_mix():
    assert same_padding((3, 6)) == (1, 1, 3, 2)
    conv = Conv(8, (3, 5), (2, 1), (1, 1, 2, 2))
    assert conv.out_shape((80, 160, 3)) == (40, 160, 8)
    assert Pool("avg", (1, 2), (1, 2)).out_shape((6, 10, 4)) == (6, 5, 4)


@pytest.mark.parametrize(
    ("layer", "shape", "out"),
    [
        (Conv(6, groups=3), (4, 4, 9), (4, 4, 6)),
        (BatchNorm(), (4, 5, 6), (4, 5, 6)),
        (Act("relu"), (4, 5, 6), (4, 5, 6)),
        (SqueezeExcite(2), (4, 5, 6), (4, 5, 6)),
        (LocalResponseNorm(), (4, 5, 6), (4, 5, 6)),
        (ChannelShuffle(3), (4, 5, 6), (4, 5, 6)),
        (Dropout(0.5), (7,), (7,)),
        (Identity(), (4, 5, 6), (4, 5, 6)),
        (GlobalPool(), (4, 5, 6), (1, 1, 6)),
        (Flatten(), (4, 5, 6), (120,)),
        (Linear(10), (7,), (10,)),
        (Chain(()), (4, 5, 6), (4, 5, 6)),
        (Chain((GlobalPool(), Flatten(), Linear(10))), (4, 5, 6), (10,)),
        (Add((Identity(), Conv(6))), (4, 5, 6), (4, 5, 6)),
        (Concat((Conv(1), Identity(), Conv(2))), (4, 5, 6), (4, 5, 9)),
        (Split((2, 4), (Conv(1), Identity())), (4, 5, 6), (4, 5, 5)),
        (Split((2, 4), (Conv(1, stride=(2, 2)), Conv(1, stride=(2, 2)))), (4, 4, 6), (2, 2, 2)),
        (Reparam(Conv(6, (3, 3), padding=(1,) * 4), (BatchNorm(), Conv(6))), (4, 5, 6), (4, 5, 6)),
    ],
    ids=lambda value: value.kind.replace(" ", "_") if hasattr(value, "kind") else None,
)
def test_output_shape(layer, shape, out):
    assert layer.out_shape(shape) == out


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (Conv(8, (5, 5)), (4, 9, 3), ("convolution", "kernel 5", "input 4")),
        (Conv(8, (5, 5), padding=(0, 0, 1, 1)), (9, 2, 3), ("convolution", "kernel 5", "input 4")),
        (Conv(8, groups=4), (4, 4, 6), ("convolution", "6 channels in", "8 out", "4 groups")),
        (Conv(6, groups=4), (4, 4, 8), ("convolution", "8 channels in", "6 out", "4 groups")),
        (Pool("max", (3, 3), (2, 2)), (2, 9, 3), ("pooling", "kernel 3", "input 2")),
        (
            Pool("avg", (3, 3), (1, 1), (0, 3, 0, 0)),
            (9, 9, 3),
            ("pooling", "padding 3", "kernel 3"),
        ),
        (Linear(10), (1, 1, 8), ("linear", "flat", "1x1x8")),
        (Linear(None), (8,), ("linear", "number of classes")),
        (ChannelShuffle(4), (2, 2, 6), ("channel shuffle", "6 channels", "4 groups")),
        (Add((Conv(4), Conv(5))), (2, 2, 3), ("add", "2x2x4", "2x2x5")),
        (Concat((Conv(4), Conv(4, stride=(2, 2)))), (2, 2, 3), ("concat", "2x2x4", "1x1x4")),
        (Concat((Flatten(), Flatten())), (2, 2, 3), ("concat", "12")),
        (Split((1, 2), (Conv(1), Conv(1))), (2, 2, 4), ("split", "1, 2", "4 channels")),
        (Split((1, 3), (Conv(1),)), (2, 2, 4), ("split", "1, 3", "1 branches")),
        (Reparam(Conv(4, (3, 3)), (Conv(4),)), (4, 4, 4), ("re-parameterised", "4x4x4", "2x2x4")),
        (Reparam(Conv(5), (BatchNorm(),)), (4, 4, 4), ("re-parameterised", "batch norm", "4x4x5")),
    ],
)
def test_what_a_layer_cannot_take_is_one_line_with_the_numbers(layer, shape, words):
    with pytest.raises(ShapeError) as caught:
        layer.out_shape(shape)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "layer",
    [
        Conv(4),
        Pool("max", (1, 1), (1, 1)),
        GlobalPool(),
        SqueezeExcite(1),
        BatchNorm(),
        LocalResponseNorm(),
        ChannelShuffle(2),
        Split((4, 4), (Identity(), Identity())),
    ],
    ids=lambda layer: layer.kind.replace(" ", "_"),
)
def test_layers_of_images_refuse_flat_inputs(layer):
    with pytest.raises(ShapeError, match=rf"^{layer.kind} needs .* got 8$"):
        layer.out_shape((8,))


def test_visits_come_in_order_of_execution_with_their_shapes():
    inner = Conv(4, stride=(2, 2))
    side = Pool("max", (2, 2), (2, 2))
    joined = Concat((Chain((Act("relu"), inner)), side))
    left, right = Conv(3), Identity()
    cut = Split((5, 2), (left, right))
    tree = Chain((joined, cut, Flatten()))
    assert list(visit(tree, (4, 4, 3))) == [
        (Act("relu"), (4, 4, 3), (4, 4, 3)),
        (inner, (4, 4, 3), (2, 2, 4)),
        (side, (4, 4, 3), (2, 2, 3)),
        (joined, (4, 4, 3), (2, 2, 7)),
        (left, (2, 2, 5), (2, 2, 3)),
        (right, (2, 2, 2), (2, 2, 2)),
        (cut, (2, 2, 7), (2, 2, 5)),
        (Flatten(), (2, 2, 5), (20,)),
    ]


def test_a_reparameterised_convolution_is_visited_whole():
    conv = Reparam(Conv(3, (3, 3), padding=(1,) * 4), (Conv(3), BatchNorm()))
    add = Add((Identity(), conv))
    kinds = [layer.kind for layer, _, _ in visit(add, (4, 4, 3))]
    assert kinds == ["identity", "re-parameterised convolution", "add"]
    assert conv.children() == (conv.merged,)


def test_the_children_are_what_lies_directly_inside():
    branches = (Conv(1), Chain((Conv(2), Conv(3))))
    for parent in (Chain(branches), Add(branches), Concat(branches), Split((1, 1), branches)):
        assert parent.children() == branches
    assert Conv(1).children() == ()


def test_only_open_linear_layers_take_the_number_of_classes():
    head = Chain((Flatten(), Chain((Linear(7, "relu"), Linear(None, "sigmoid")))))
    assert is_open(head)
    closed = with_classes(head, 10)
    assert closed == Chain((Flatten(), Chain((Linear(7, "relu"), Linear(10, "sigmoid")))))
    assert not is_open(closed)
    assert closed.out_shape((2, 2, 1)) == (10,)
    assert with_classes(Conv(3), 10) == Conv(3)
    assert not is_open(Conv(3))


def test_layers_are_data():
    a, b = Conv(8, (3, 3), (1, 2)), Conv(8, (3, 3), (1, 2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != Conv(8, (3, 3), (2, 1))
    assert len({a, b, Chain((a,)), Add((a,)), Concat((a,))}) == 4  # the kind counts
    assert prod(a.out_shape((5, 5, 2))) == 3 * 2 * 8
