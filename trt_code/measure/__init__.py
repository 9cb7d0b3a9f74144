"""Measurements: latency, agreement, throughput, kernels, and the tables and plots of the results."""
