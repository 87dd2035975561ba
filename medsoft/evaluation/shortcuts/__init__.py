"""Humble baselines beside a model: a regression on trivial facts of how a picture was taken, one on covariates."""
