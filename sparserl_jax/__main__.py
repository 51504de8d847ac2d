"""`python -m sparserl_jax` is `sparserl`."""

from sparserl_jax.cli import main

if __name__ == "__main__":
    main()
