"""Published weights under lcnas's names: from PaddleClas, PaddleOCR, timm, torchvision and lcnas.

Formats: Paddle's inference models (``.pdiparams`` with its program), ``.pdparams``, PyTorch's
``.pth``, ``.pt``, ``.bin`` and ``.ckpt``, and safetensors. Only NumPy is needed. Pickles are parsed
as data, so that no content of a file is executed.

Examples:
    >>> import numpy as np
    >>> from lcnas import onnx_export, zoo
    >>> arch = zoo.load("pplcnet_0.25x", resolution=32)
    >>> weights = onnx_export.init(arch, np.random.default_rng(0), classes=2)
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "small.safetensors"
    ...     save(file, arch, weights, class_names=["cat", "dog"])
    ...     pretrained = read(file)
    >>> pretrained.arch == arch, pretrained.classes, pretrained.class_names
    (True, 2, ('cat', 'dog'))
"""

from lcnas.models.pretrained._fit import head_names, without_head
from lcnas.models.pretrained._own import save
from lcnas.models.pretrained._read import SUFFIXES, Pretrained, read

__all__ = ["SUFFIXES", "Pretrained", "head_names", "read", "save", "without_head"]
