"""Hyperparameter sweeps of `reid_core` on Ray: which configurations to try, and where they run."""
