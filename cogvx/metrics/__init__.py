"""What is measured on decoded videos; no suite, no arm and no server is known here."""
