"""One iteration, from a batch to a scalar: mixes, forwards, labels, losses."""
