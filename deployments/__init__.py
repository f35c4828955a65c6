"""Recipes, suites, and what is deployed."""
