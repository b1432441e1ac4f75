"""Open-set animal re-identification: photographs and arrays in, arrays and numbers out. No Ray."""
