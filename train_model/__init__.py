"""Training: operators, networks, data, the fairseq plugin and the recipes."""
