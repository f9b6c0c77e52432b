"""The public operators: validate, select, launch, differentiate."""
