"""One file per attention variant, found by discovery (`attention_gym.gallery`)."""
