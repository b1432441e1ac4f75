"""Metadata and photographs as arrays.

metadata.csv + photographs → one checked table, decoded pixels in one memory-mapped file.
"""
