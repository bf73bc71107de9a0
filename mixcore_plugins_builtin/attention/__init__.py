"""Readers of the attention of unmodified timm models.

Attention that rotates queries and keys after their norm, or changes the logits in another way (RoPE, talking heads,
Swin v2), is not covered: a wrong row would be worse than none.
"""
