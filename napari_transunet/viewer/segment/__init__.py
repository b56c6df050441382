"""The dock *Segment volume*."""
