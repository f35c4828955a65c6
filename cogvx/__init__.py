"""Train, export, load and evaluate LoRA adapters for CogVideoX, without any server.

Nothing is imported here, so that `import cogvx` costs nothing and loads no GPU stack.
"""
