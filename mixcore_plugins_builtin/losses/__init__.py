"""The builtin losses: of classes soft_cross_entropy, bce and bce_softmax; of values l1, mse, huber and focal_l1."""
