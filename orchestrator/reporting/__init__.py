"""What people and schedulers get to see: the result, its tables, and progress on the way there."""
