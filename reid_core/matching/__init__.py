"""Local matching: keypoints of each photograph, match scores of pairs.

pixels (B, H, W, 3) → `LocalFeatures`; pairs of rows (P,) → scores (P,), larger is more alike.
"""
