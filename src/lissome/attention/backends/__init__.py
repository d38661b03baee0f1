"""Ways to run a recipe: `naive` is the truth, the others are held to it."""
