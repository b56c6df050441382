"""What a person does with a prediction: the session with its edits and runs, comparing label volumes."""
