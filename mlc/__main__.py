"""`python -m mlc`, which torchrun and mpirun start."""

from mlc.cli import main

if __name__ == "__main__":
    main()
