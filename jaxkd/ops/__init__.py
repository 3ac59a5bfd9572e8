"""Pure functions of one image or one array; they import jax only and can be used alone."""
