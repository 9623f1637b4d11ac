"""Multimodal reward modelling after InternLM-XComposer2.5-Reward, on Lightning.

Importing this package imports neither torch nor lightning: the command line answers at once.
"""

__version__ = "0.1.0"
