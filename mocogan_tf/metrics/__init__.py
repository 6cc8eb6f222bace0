"""Numbers that say how good generated clips are: clips in, numbers out; no metric knows which model made the clips."""
