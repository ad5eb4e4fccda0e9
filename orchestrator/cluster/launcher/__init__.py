"""`cluster.yaml`: checking it before anything is paid for, and what it has nodes run beside Ray."""
