"""What a store holds, what of it is needed, whether it is whole, and what may go."""
