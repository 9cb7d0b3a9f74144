"""The networks in pure PyTorch, with the parameter names of the public checkpoints."""
