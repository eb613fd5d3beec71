"""`python -m fusion_slerp` is the command `fusion_slerp`."""

from fusion_slerp.cli import main

if __name__ == "__main__":
    main()
