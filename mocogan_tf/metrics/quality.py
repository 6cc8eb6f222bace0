"""Which way each score is good."""

# True: more is better, False: less is better. Scores that are not listed say what clips are like, and are right where
# they are near those of real clips.
HIGHER_IS_BETTER = {
    "acd_color": False,
    "acd": False,
    "acd_face": False,
    "coverage": True,
    "color_diversity": True,
    "mcs": True,
    "frechet_video": False,
    "frechet_frame": False,
    "kernel_video": False,
    "precision": True,
    "recall": True,
    "loop": False,
    "freeze": False,
    "drift": False,
    "identity": False,
    "motion_kept": True,
    "content_kept": True,
    "fvd": False,
    "is": True,
}


def direction(name: str) -> bool | None:
    """Whether more of a score is better; None where neither is."""
    return HIGHER_IS_BETTER.get(name)
