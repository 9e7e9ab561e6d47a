"""What is attacked, where its weights come from, and how it was trained."""
