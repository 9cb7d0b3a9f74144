"""Training: operators, networks, data, the fairseq plugin and the recipes."""

from train_model import interrupt

interrupt.silence()
