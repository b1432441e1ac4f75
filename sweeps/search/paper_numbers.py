"""The paper's own numbers: tables 6.1 and 6.2.

row → BAKS, BAUS, GEO_MEAN.
"""

Triple = tuple[float, float, float]  # BAKS, BAUS, GEO_MEAN
# Species of the paper → group of AnimalCLEF25's metadata.
LYNX, TURTLE, SALAMANDER = "LynxID2025", "SeaTurtleID2022", "SalamanderID2025"


def _species(lynx: Triple, turtle: Triple, salamander: Triple) -> dict[str, Triple]:
    return {LYNX: lynx, TURTLE: turtle, SALAMANDER: salamander}


# Table 6.1, thresholdSet: the paper gives no such numbers for `metric` and `efficientnet_b4`.
PAPER_61: dict[str, dict[str, Triple]] = {
    "batch16": _species((0.318, 0.922, 0.542), (0.442, 0.901, 0.631), (0.603, 0.931, 0.750)),
    "batch32": _species((0.364, 0.949, 0.588), (0.439, 0.859, 0.614), (0.587, 0.871, 0.715)),
    "batch64": _species((0.303, 0.976, 0.544), (0.428, 0.845, 0.601), (0.550, 0.907, 0.706)),
    "batch64_warmup": _species((0.333, 0.968, 0.568), (0.423, 0.935, 0.629), (0.572, 0.945, 0.735)),
    "batch64_complex_head": _species((0.303, 0.844, 0.506), (0.434, 0.896, 0.623), (0.378, 0.971, 0.606)),
}
# Table 6.2, testSet, all species pooled.
PAPER_62: dict[str, Triple] = {
    "batch16": (0.518, 0.905, 0.684),
    "batch32": (0.500, 0.843, 0.649),
    "batch64": (0.497, 0.862, 0.654),
    "batch64_warmup": (0.500, 0.932, 0.683),
    "batch64_complex_head": (0.431, 0.914, 0.628),
    "metric": (0.579, 0.903, 0.723),
    "efficientnet_b4": (0.229, 0.706, 0.402),
}
PAPER_IMPROVEMENT = {"metric": 140.0}  # per cent (§8), of its best model over Kaggle's baseline
