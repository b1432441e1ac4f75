"""Fine-tuning.

prepared images + configuration → batches → loss → a report per epoch, checkpoints.
"""
