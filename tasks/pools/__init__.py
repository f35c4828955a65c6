"""Runs that other runs start: on a work pool or here, waited for, looked after, metered."""
