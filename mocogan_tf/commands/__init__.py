"""The mains of the commands `mocogan-train`, `mocogan-sample`, `mocogan-evaluate` and `mocogan-prepare`."""
