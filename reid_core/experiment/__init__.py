"""One configuration from data folder to bundle: what plain Python and every Ray worker share.

data folder + configuration → prepared data → trained model → metrics, bundle.
"""
