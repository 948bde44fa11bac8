"""Networks: plain modules of torch and einops that know nothing of training."""

from collapse.nn.conv import ConvDecoder, ConvEncoder
from collapse.nn.denoiser import MLPDenoiser
from collapse.nn.mlp import MLP
from collapse.nn.precision import at_least_single
from collapse.nn.transformer import Transformer
from collapse.nn.unet import UNet

__all__ = ["ConvDecoder", "ConvEncoder", "MLP", "MLPDenoiser", "Transformer", "UNet", "at_least_single"]
