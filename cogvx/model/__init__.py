"""The parts of a CogVideoX checkpoint, in explicit precision. Heavy libraries start here."""
