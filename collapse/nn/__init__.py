"""Networks: plain modules of torch and einops that know nothing of training."""

from collapse.nn.conv import ConvDecoder, ConvEncoder
from collapse.nn.mlp import MLP

__all__ = ["ConvDecoder", "ConvEncoder", "MLP"]
