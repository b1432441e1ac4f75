"""metadata.csv: how it is read, and what of it is not taken as it stands.

metadata.csv → one checked Arrow table + findings.
"""
