"""Few-bit weights in an ONNX graph, in the operators that onnxruntime has for them.

A matrix that is only multiplied by becomes MatMulNBits with the very integers of the packed file,
1.12.26 or later for 8 bits and 1.13.4 for 2 bits inside sherpa-onnx. A kernel or a table in int8 or
less becomes DequantizeLinear of int8. What the runtime has no operator for (blocks of other sizes
than its own, N:M without a level at zero) stays float. N:M zeros are stored like other values.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper

from pocketscribe.models import Recogniser
from pocketscribe.weights import Format, Weight
from pocketscribe.weights.packing import to_bits

CONTRIB = "com.microsoft"
BLOCKS = (32, 64, 128, 256)  # smaller ones run slowly
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy level; without it few bits run slower than floats


def with_low_bits(proto: onnx.ModelProto, model: Recogniser) -> onnx.ModelProto:
    """Replaces the floats of every quantised weight; `proto` was traced with the decoded model."""
    graph = proto.graph
    by_content = {
        content: (weight, turned)
        for weight in model.weights.stored.values()
        if _possible(weight.format)
        for content, turned in _contents(weight)
    }
    uses: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            uses[name].append(node)
    new: dict[int, list[NodeProto]] = {}  # by the node that they replace or go before
    for tensor in list(graph.initializer):
        weight, turned = by_content.get(numpy_helper.to_array(tensor).tobytes(), (None, False))
        if weight is None or not uses[tensor.name]:
            continue
        nodes = uses[tensor.name]
        if all(_multiplies(node, tensor.name, turned) for node in nodes):
            products = _Products(tensor.name, weight)
            graph.initializer.extend(products.initializers)
            for node in nodes:
                new[id(node)] = products.replace(node)
        elif weight.format.block is None and weight.format.symmetric:
            parts = _int8(tensor, weight, turned)
            graph.initializer.extend(parts)
            names = [part.name for part in parts]
            axis = int(turned)  # of the stored matrix's rows, each of which has a scale
            floats = helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis)
            new[id(nodes[0])] = [floats, *new.get(id(nodes[0]), [nodes[0]])]
        else:
            continue
        graph.initializer.remove(tensor)
    nodes = [made for node in graph.node for made in new.get(id(node), [node])]
    nodes.sort(key=lambda node: node.op_type != "DequantizeLinear")  # stable: before every use
    del graph.node[:]
    graph.node.extend(nodes)
    if CONTRIB not in {o.domain for o in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return proto


def _possible(format: Format) -> bool:
    """Whether the runtime has these blocks, and zeros among its levels where some are left out."""
    if format.bits is None or (format.sparsity is not None and not format.symmetric):
        return False
    return format.block is None or format.block in BLOCKS


def _contents(weight: Weight) -> list[tuple[bytes, bool]]:
    """The matrix as a graph may hold it: as it is, or turned. (A symmetric one is as it is.)"""
    with torch.no_grad():
        matrix = weight().detach()
    sides = ((matrix.T, True), (matrix, False))
    return [(np.ascontiguousarray(m.numpy()).tobytes(), turned) for m, turned in sides]


def _multiplies(node: NodeProto, name: str, turned: bool) -> bool:
    """Whether the node is `x W^T`, perhaps with a bias, for the stored W: `name` is it, or W^T."""
    if node.op_type not in ("MatMul", "Gemm") or list(node.input).index(name) != 1:
        return False
    set_to = {a.name: a.i for a in node.attribute}
    return set_to.get("transA", 0) == 0 and bool(set_to.get("transB", 0)) != turned


@dataclass
class _Products:
    """MatMulNBits nodes on one weight, which is stored once."""

    name: str
    weight: Weight

    def __post_init__(self) -> None:
        out, fan_in = self.weight.shape
        format = self.weight.format
        assert format.bits is not None
        found = self.weight.integers()
        self.block = format.block or _smallest(fan_in, format.bits)
        count = -(-fan_in // self.block)
        self.sizes: dict[str, Any] = {
            "K": fan_in,
            "N": out,
            "bits": format.bits,
            "block_size": self.block,
        }
        middle = 2 ** (format.bits - 1)
        shift = middle if format.symmetric else 0
        filled = np.full((out, count * self.block), middle, np.uint8)
        filled[:, :fan_in] = found.codes.numpy() + shift
        arrays = {
            "codes": to_bits(filled, format.bits).reshape(out, count, -1),
            "scale": _spread(found.scale, fan_in, self.block),
        }
        if found.low is not None:
            arrays["zero"] = _spread(-found.low.float() / found.scale.float(), fan_in, self.block)
        self.initializers = [
            numpy_helper.from_array(array, f"{self.name}.{part}") for part, array in arrays.items()
        ]

    def replace(self, node: NodeProto) -> list[NodeProto]:
        """The same product, with the bias of a Gemm added afterwards."""
        bias = node.input[2] if len(node.input) > 2 else None
        product = f"{node.output[0]}.product" if bias else node.output[0]
        inputs = [node.input[0], *(tensor.name for tensor in self.initializers)]
        made = helper.make_node(
            "MatMulNBits",
            inputs,
            [product],
            domain=CONTRIB,
            accuracy_level=INT8_ACTIVATIONS,
            **self.sizes,
        )
        if bias is None:
            return [made]
        return [made, helper.make_node("Add", [product, bias], list(node.output))]


def _smallest(fan_in: int, bits: int) -> int:
    """The block whose codes and scales take the fewest bytes."""
    return min(BLOCKS, key=lambda block: -(-fan_in // block) * (block * bits // 8 + 4))


def _spread(scale: torch.Tensor, fan_in: int, block: int) -> np.ndarray:
    """A row's scales for each of the operator's blocks: a whole channel's is repeated."""
    count = -(-fan_in // block)
    return np.ascontiguousarray(scale.float().expand(-1, count).numpy())


def _int8(
    tensor: onnx.TensorProto, weight: Weight, turned: bool
) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    """Integers in the float tensor's shape, and a scale for each row of the stored matrix."""
    found = weight.integers()
    codes = found.codes.numpy().astype(np.int8)
    values = np.ascontiguousarray(codes.T if turned else codes).reshape(tuple(tensor.dims))
    scale = found.scale.float().numpy().reshape(-1)
    return (
        numpy_helper.from_array(values, f"{tensor.name}.codes"),
        numpy_helper.from_array(scale, f"{tensor.name}.scale"),
    )
