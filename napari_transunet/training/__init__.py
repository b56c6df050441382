"""Training TransUNet on labelled volumes."""
