"""The fused engine: members of one architecture stacked and trained as one compiled program."""
