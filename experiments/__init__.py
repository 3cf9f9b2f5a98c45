"""Command lines, configurations, tables and plots around kd_jax."""
