"""Names of what an epoch's report holds, for who writes reports and who reads them. No torch."""

SCORE = "geo_mean_cosine"  # of an epoch, by cosine alone: decides the best epoch, early stopping and pruning
SPEED = (
    "images_per_s",
    "data_wait_share",
)  # of its training: images, and the share of time in which data were waited for
FED = (*SPEED, "not_augmented", "not_augmented_examples")  # what the feed of batches measures
CLOCKED = ("seconds", *SPEED)  # what a clock measures: never twice the same
