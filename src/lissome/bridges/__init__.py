"""What other people's libraries need; each file wants one of them, and its import says which extra brings it."""
