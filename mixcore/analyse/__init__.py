"""Analyses of trained runs: what a run offers them, one analysis of one run, pictures of several runs."""
