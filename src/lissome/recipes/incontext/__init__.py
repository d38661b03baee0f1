"""Learning in context: settings, training, and what a trained model is worth (AlgoFormer, arXiv 2402.13572)."""
