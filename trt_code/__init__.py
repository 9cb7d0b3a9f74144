"""TensorRT: graph surgery, plugins, engines, runners, measurements and serving."""

from train_model import interrupt

interrupt.silence()
