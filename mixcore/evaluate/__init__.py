"""Evaluation: metrics of predictors on the validation set, and the protocol by which a run reports one number."""
