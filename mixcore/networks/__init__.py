"""Networks as the core runs them: taps, attention, stages, shapes, teachers, files of weights."""
