"""A trained run as files that other programs read: timm's, bare tensors, ONNX, and a program of torch."""
