"""From an image array to a label array: preprocessing, the predictor, the way back to the grid."""
