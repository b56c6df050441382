"""The dock *Review and correct* and its parts."""
