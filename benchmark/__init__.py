"""Who meets whom, under which budget: tasks, grid, evaluation, submission, command line."""
