"""Hugging Face's own image-text and text models as backbones, whatever their class."""

from lit_ixc.native.loading import load
from lit_ixc.native.model import NativeFamily
from lit_ixc.native.processing import NativeProcessor

__all__ = ["NativeFamily", "NativeProcessor", "load"]
