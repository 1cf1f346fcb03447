"""The checks of `doctor`: functions of a Site that give findings. A new one: a file here, a row in doctor.CHECKS."""
