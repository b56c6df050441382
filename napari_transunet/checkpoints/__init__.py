"""Reading, inspecting and saving weights, and the model cards that describe them."""
