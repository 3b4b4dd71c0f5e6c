"""Models: what the engine may ask of one, and the adapter for stock Hugging Face models."""

from x2l.models.torchvision_ops import ensure_torchvision_imports

ensure_torchvision_imports()  # before anything here imports transformers, which imports torchvision
