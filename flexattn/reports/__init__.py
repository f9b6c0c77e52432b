"""What the compiler made of a mod: explain, verify, lower, compile_only."""
