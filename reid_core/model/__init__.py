"""The network, and the place where it runs.

pixels (B, H, W, 3) → embeddings of length 1 (B, D) and a classifier's logits (B, K).
"""
