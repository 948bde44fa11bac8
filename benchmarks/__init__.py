"""Alternating A/B measurements: medians and ratios within one run. Absolute times belong to the machine."""
