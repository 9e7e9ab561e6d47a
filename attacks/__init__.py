"""What can be done to an image: objectives, searches, budgets and the engine that joins them."""
