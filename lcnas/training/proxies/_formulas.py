"""Formulas of the scores, from a network's activation patterns and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lcnas.training.proxies._maps import Array

Pattern = NDArray[np.bool_]  # of one activation layer, (units, images)


def naswot(patterns: Sequence[Pattern]) -> float:
    """Return the log determinant of the kernel of binary codes; -inf if two images share a code.

    The kernel counts, for each pair of images, the units that are active for both or for neither: Mellor et
    al., "Neural Architecture Search without Training" (ICML 2021, arXiv 2006.04647), equation 2.
    """
    return float(np.linalg.slogdet(hamming_kernel(patterns))[1])


def hamming_kernel(patterns: Sequence[Pattern]) -> NDArray[np.float64]:
    """Return the number of units on which each pair of images agrees, (images, images)."""
    n = patterns[0].shape[1]
    kernel = np.zeros((n, n))
    for pattern in patterns:
        x = pattern.astype(np.float32)  # counts up to 2**24 are exact
        active = x.sum(axis=0, dtype=np.float64)
        kernel += len(x) - active[:, None] - active[None, :] + 2.0 * (x.T @ x)
    return kernel


def swap(patterns: Sequence[Pattern]) -> float:
    """Return the number of distinct sample-wise patterns: for each unit, the images that activate it.

    Peng et al., "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-fast NAS" (ICLR 2024, arXiv
    2403.04161), definition 3.2, without the regularisation by size.
    """
    rows = np.concatenate([np.packbits(pattern, axis=1) for pattern in patterns])
    words = -(-rows.shape[1] // 8)
    whole = np.zeros((len(rows), 8 * words), np.uint8)
    whole[:, : rows.shape[1]] = rows
    keys = whole.view(np.uint64)
    return float(len(np.unique(keys[:, 0]) if words == 1 else np.unique(keys, axis=0)))


def zico(gradients: Sequence[Mapping[str, Array]]) -> float:
    """Return the sum over layers of the log of the sum over weights of mean |gradient| / its deviation.

    Mean and deviation are over batches: Li et al., "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation
    on Gradients" (ICLR 2023, arXiv 2301.11300), equation 8, with the deviation of the signed gradient, as in
    the authors' code (github.com/SLDGroup/ZiCo, compute_zico.py). As there, weights with the same gradient in
    all batches are left out, and so are layers without other weights.

    Args:
        gradients: for each batch, kernel name -> gradient.
    """
    total = 0.0
    for name in gradients[0]:
        stacked = np.stack([batch[name] for batch in gradients])
        deviation = stacked.std(axis=0)
        moves = deviation > 0
        ratio = np.abs(stacked).mean(axis=0)[moves] / deviation[moves]
        if ratio.size:
            total += math.log(ratio.sum(dtype=np.float64))
    return total


def gradient_norm(gradients: Sequence[Mapping[str, Array]]) -> float:
    """Return the sum over layers of the Euclidean norm of the kernel's gradient, mean over batches.

    Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021, arXiv 2101.08134), section 3.2;
    layer by layer as in the authors' code.
    """
    return float(np.mean([_norms(batch.values()) for batch in gradients]))


def _norms(kernels: Iterable[Array]) -> float:
    return sum(float(np.linalg.norm(kernel)) for kernel in kernels)


def synflow(weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> float:
    """Return the natural log of the sum over weights of |weight x gradient|.

    Tanaka et al. (arXiv 2006.05467), equation 1, summed over the network as by Abdelfattah et al. (arXiv
    2101.08134). The log keeps the order, and limits a number that grows with the product of all widths.
    """
    total = sum(float(np.abs(weights[name] * g).sum()) for name, g in gradients.items())
    return math.log(total)


def cross_entropy_gradient(logits: Array, labels: NDArray[np.integer]) -> Array:
    """Return the gradient of the mean cross entropy by the logits (n, classes)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradient: Array = shifted / shifted.sum(axis=1, keepdims=True)
    gradient[np.arange(len(labels)), labels] -= 1
    return gradient / len(labels)
