"""`python -m orchestrator`: the same as the console script."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
