"""The parts of a CogVideoX checkpoint, loaded with explicit precision. Heavy libraries start here."""
