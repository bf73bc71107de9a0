"""The builtin backbones: timm's models, their CIFAR variants, and WRN-28-8."""
