"""The builtin losses: soft_cross_entropy, bce and bce_softmax."""
