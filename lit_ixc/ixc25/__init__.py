"""InternLM-XComposer2.5 as transformers classes; importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from lit_ixc.ixc25.configuration import IXC25Config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration, IXC25Model
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.ixc25.tokenizer import IXC25Tokenizer

AutoConfig.register("ixc25", IXC25Config, exist_ok=True)
AutoModel.register(IXC25Config, IXC25Model, exist_ok=True)
AutoModelForImageTextToText.register(IXC25Config, IXC25ForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(IXC25Config, fast_tokenizer_class=IXC25Tokenizer, exist_ok=True)
AutoProcessor.register(IXC25Config, IXC25Processor, exist_ok=True)

__all__ = ["IXC25Config", "IXC25ForConditionalGeneration", "IXC25Model", "IXC25Processor", "IXC25Tokenizer"]
