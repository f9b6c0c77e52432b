"""Graph to facts: intervals, proofs that an access is inside its capture, and costs."""
