"""The TransUNet network and its variants. Needs torch and nothing else of this package but its errors."""
