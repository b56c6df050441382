"""From a volume to labels: devices, intensities, resizing, and the predictor that puts them together."""
