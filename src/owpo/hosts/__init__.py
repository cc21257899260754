"""owpo inside trainers that users already run. A module needs its host, and translates; the maths is `core`'s."""
