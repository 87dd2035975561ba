"""Time, memory and operations of mechanisms and backbones, measured side by side."""
