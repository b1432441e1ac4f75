"""The frozen part of the backbone, computed once per image for all trials.

model + pixels → activations at the boundary between frozen and trained stages, kept on disk.
"""
