"""The tasks, one class each; ``medsoft.task.Task`` says what a task owns, and finds these classes by name.

Modules here import NumPy and pandas alone when they are imported: tables are read and evaluated without a network
library. What a method needs of a room (losses, readers of labels) is imported where it is called.
"""
