"""From a volume to labels: preparing slices, running the network, bringing answers back."""
