"""Every hyperparameter, and the named configurations.

flags, YAML, dotted values → one checked `TrialConfig`. Standard library only, but for the YAML files.
"""
